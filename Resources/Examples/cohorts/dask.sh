#!/bin/bash
# Dask: a scheduler and workers of one thread each, which see the same files; here all of them on this computer.
# Elsewhere: `dask worker tcp://HOST:8786` on every computer. Everybody who reaches a scheduler can run code on its
# workers: keep it in a network of your own, or use Dask's TLS.
#   bash Resources/Examples/cohorts/dask.sh studies.csv results/
set -e
dask scheduler --host 127.0.0.1 --port 8786 &
dask worker tcp://127.0.0.1:8786 --nworkers 8 --nthreads 1 &
trap 'kill $(jobs -p)' EXIT
sleep 10
samv2 batch track --table "$1" --output "$2" --dask tcp://127.0.0.1:8786 --threads 2 --resume
