"""A small DICOMweb archive on the loopback, which answers the requests of PS3.18 that Orthanc answers: QIDO-RS for
studies, series and instances, WADO-RS for series, instances and their metadata, STOW-RS."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List
from urllib.parse import parse_qsl, urlsplit

import pydicom

_LEVELS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_BOUNDARY = "boundary-of-the-test"
_ANSWERS = {
    "studies": ("PatientID", "StudyInstanceUID", "StudyDate", "StudyTime"),
    "series": ("Modality", "StudyInstanceUID", "SeriesInstanceUID", "NumberOfSeriesRelatedInstances"),
    "instances": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"),
}


class Archive:
    """What the server holds. ``url``: of the service. ``arrived``: studies, whenever something of them has come.
    ``requests``: every path that was asked for. ``refuses``: what it answers to STOW is a failure."""

    def __init__(self) -> None:
        self.datasets: List[Any] = []
        self.arrived: List[str] = []
        self.requests: List[str] = []
        self.headers: List[Dict[str, str]] = []
        self.refuses = False
        self.url = ""

    def add(self, folder: Path) -> None:
        """Everything below a folder."""
        datasets = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
        self.datasets += datasets
        self.arrived += sorted({str(dataset.StudyInstanceUID) for dataset in datasets})

    def store(self, dataset: Any) -> None:
        """One of a UID is kept, as archives do."""
        uid = dataset.SOPInstanceUID
        self.datasets = [*(known for known in self.datasets if known.SOPInstanceUID != uid), dataset]

    def of_modality(self, modality: str) -> List[Any]:
        return [dataset for dataset in self.datasets if dataset.Modality == modality]


@contextlib.contextmanager
def serving() -> Iterator[Archive]:
    """An empty archive at a free port."""
    archive = Archive()
    handler = type("Handler", (_Handler,), {"archive": archive})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    archive.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    archive: Archive
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.archive.requests.append(self.path)
        self.archive.headers.append(dict(self.headers))
        parts = urlsplit(self.path)
        if not parts.path.startswith("/dicom-web/"):
            self._orthanc(parts.path, dict(parse_qsl(parts.query)))
            return
        names = parts.path.split("/")[2:]  # without "" and the service
        wants_metadata = names[-1] == "metadata"
        names = names[:-1] if wants_metadata else names
        found = self._found(dict(zip(_LEVELS, names[1::2])))
        if not found:
            self._answer(404, b"", "text/plain") if len(names) % 2 == 0 else self._json([])
        elif wants_metadata:
            self._json([_json(dataset) for dataset in found])
        elif len(names) % 2:
            self._json(_listed(found, names[-1], dict(parse_qsl(parts.query))))
        else:
            self._multipart(found)

    def _orthanc(self, path: str, query: Dict[str, str]) -> None:
        """What Orthanc's own interface tells of arrivals: here a study is stable when it is there."""
        if path == "/changes":
            arrived = enumerate(self.archive.arrived, 1)
            changes = [{"ChangeType": "StableStudy", "ID": uid, "Seq": number} for number, uid in arrived]
            since, limit = int(query["since"]), int(query["limit"])
            self._json({"Changes": changes[since : since + limit], "Done": since + limit >= len(changes)})
        else:
            self._json({"MainDicomTags": {"StudyInstanceUID": path.rpartition("/")[2]}})

    def _found(self, uids: Dict[str, str]) -> List[Any]:
        return [d for d in self.archive.datasets if all(str(d[name].value) == uid for name, uid in uids.items())]

    def do_POST(self) -> None:
        self.archive.requests.append(f"POST {self.path}")
        body = self._body()
        boundary = self.headers["Content-Type"].split("boundary=")[1].split(";")[0].strip('"').encode()
        answer = pydicom.Dataset()
        for part in body.split(b"--" + boundary)[1:-1]:
            dataset = pydicom.dcmread(io.BytesIO(part.partition(b"\r\n\r\n")[2][:-2]))
            item = pydicom.Dataset()
            item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
            if self.archive.refuses:
                item.FailureReason = 272
                answer.FailedSOPSequence = pydicom.Sequence([item])
            else:
                self.archive.store(dataset)
                self.archive.arrived.append(str(dataset.StudyInstanceUID))
                answer.ReferencedSOPSequence = pydicom.Sequence([item])
        self._json(answer.to_json_dict())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while True:
            size = int(self.rfile.readline(), 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                return body

    def _json(self, content: Any) -> None:
        self._answer(200, json.dumps(content).encode(), "application/dicom+json")

    def _multipart(self, datasets: List[Any]) -> None:
        body = b""
        for dataset in datasets:
            stream = io.BytesIO()
            dataset.save_as(stream)
            body += f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + stream.getvalue() + b"\r\n"
        kind = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'
        self._answer(200, body + f"--{_BOUNDARY}--".encode(), kind)

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _listed(found: List[Any], level: str, query: Dict[str, str]) -> List[Any]:
    """One answer for each study, series or instance."""
    limit = int(query.pop("limit", 10**6))
    filters = {name: value for name, value in query.items() if name in ("PatientID", *_LEVELS)}
    key = _ANSWERS[level][1] if level == "studies" else _ANSWERS[level][2]
    groups: Dict[str, List[Any]] = {}
    for dataset in found:
        if all(str(dataset[name].value) == value for name, value in filters.items()):
            groups.setdefault(str(dataset[key].value), []).append(dataset)
    answers = []
    for group in groups.values():
        answer = pydicom.Dataset()
        for name in _ANSWERS[level]:
            setattr(answer, name, len(group) if name.startswith("Number") else group[0][name].value)
        answers.append(answer.to_json_dict())
    return answers[:limit]


def _json(dataset: Any) -> Any:
    """Metadata: without pixels."""
    return {tag: item for tag, item in dataset.to_json_dict().items() if tag != "7FE00010"}
