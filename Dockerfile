# The compute server, `samv2 serve`: see Resources/Server.md. CPU by default; for NVIDIA:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 -t samv2 .
# Nothing is fetched at run time: the bundled models are inside.
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY . .
RUN pip install --index-url "$TORCH_INDEX" torch==2.13.0 \
    && pip install -c requirements/constraints.txt ".[server]" \
    && rm -rf /src/* \
    && useradd --create-home --uid 10001 samv2

WORKDIR /home/samv2
USER samv2
EXPOSE 8123
# Does it answer, with TLS or without?
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-c", "import ssl, urllib.request as web\ntry:\n \
web.urlopen('https://127.0.0.1:8123/health', timeout=4, context=ssl._create_unverified_context())\nexcept OSError:\n \
web.urlopen('http://127.0.0.1:8123/health', timeout=4)"]

ENTRYPOINT ["samv2", "serve", "--host", "0.0.0.0"]
# Mount a folder with the token, and a certificate with its key, which user 10001 may read (`--gpus all` for CUDA):
#   docker run -p 8123:8123 -v $PWD/secrets:/run/secrets:ro samv2
# Behind a proxy that takes care of TLS:
#   docker run --network proxy -v $PWD/secrets:/run/secrets:ro samv2 --token-file /run/secrets/token --insecure
CMD ["--token-file", "/run/secrets/token", "--tls-cert", "/run/secrets/cert.pem", "--tls-key", "/run/secrets/key.pem"]
