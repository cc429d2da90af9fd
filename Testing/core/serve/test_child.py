"""A child process: the same results, voxels in shared memory, and every way in which one of the two may die."""

import contextlib
import glob
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

import SAMv2Core as s
from SAMv2Core.errors import Cancelled, ServerError
from SAMv2Core.serve import shared
from SAMv2Core.serve.child_link import ChildLink, Prepared
from SAMv2Core.serve.client import Client, Scan
from Testing.core.serve.conftest import POINTS, small_torso
from Testing.core.serve.test_service import plain
from Testing.samples.embedding_samples import torso
from Testing.samples.small_service import ROOT, SLOW, STUCK, load

GONE_SECONDS = 5.0


def is_alive(pid):
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # a zombie is not alive
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def is_gone(pid, seconds=GONE_SECONDS):
    until = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_alive(pid)


def left_over(*pids):
    return [p for folder in shared._folders() for pid in pids for p in glob.glob(f"{folder}/{shared.PREFIX}-{pid}-*")]


def match(client, scans, **values):
    def arguments():
        return {"template": scans[0].source(), "query": scans[1].source(), "points": POINTS, **values}

    return client.run(client.steps("match", scans, arguments))["value"]


def embed(client, scan, progress=None):
    return client.steps("embed", [scan], lambda: {"source": scan.source()}, progress)


def until(client, steps, condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        next(steps)
        client.poll(0.02)


def begin_slowly(client, name=SLOW):
    """A scan that the child is in the middle of embedding."""
    texts, scan = [], Scan(small_torso(7), "slow scan", options={"model": name})
    steps = embed(client, scan, lambda fraction, text, stage: texts.append((text, stage)))
    until(client, steps, lambda: ("slowly", "embed") in texts or (name == STUCK and texts[-1:] == [("", "embed")]))
    return steps


def test_results_are_those_of_one_process(shared_child, scans):
    model = load("lite-test", "cpu")
    local = [model.embed(scan.volume) for scan in scans]
    assert plain(match(shared_child, scans)) == plain(s.match(*local, POINTS))


def test_a_large_scan_goes_through_shared_memory_and_leaves_nothing(shared_child):
    scan = Scan(torso((60, 100, 100)), "large")
    assert scan.volume.array.nbytes > 1 << 20
    value = shared_child.run(embed(shared_child, scan))
    assert value["embeddings"][0]["voxels"] == scan.volume.array.size
    assert not left_over(os.getpid(), shared_child.link.pid)


def test_shared_memory_is_only_what_we_made():
    memory = shared.Shared((3, 4), np.int16)
    memory.array[...] = 7
    seen = shared.open_shared(memory.name, 24)
    assert np.array_equal(seen.view(np.int16), np.full(12, 7)) and not seen.flags.writeable
    memory.release()
    for name in ("../../etc/passwd", "passwd", memory.name, "samv2-shared-1-0123456789abcdef"):
        with pytest.raises(ValueError):
            shared.open_shared(name, 24)
    assert not left_over(os.getpid())


def test_the_voxels_are_in_memory_once_on_each_side(new_child):
    """A scan of 128 MiB: the child grows by that, and the client, once it has answered, by nothing."""
    client = new_child()
    client.run(client.steps("info", [], dict))
    volume = s.Volume(np.zeros((128, 512, 1024), np.int16), np.eye(4) * [1, 1, 1, 1])
    volume.array.sum()
    before = _resident(os.getpid()), _resident(client.link.pid)
    scan = Scan(volume, "zeros")
    scan.content = "0" * 64  # the child believes its parent
    operation = client._prepare("put", {"content": scan.content, "array": volume.array, "ijk_to_lps": np.eye(4)})
    call = client._send(operation)
    while not call.is_done:
        client.poll(0.05)
    assert call.error is None
    grown = [_resident(pid) - n for pid, n in zip((os.getpid(), client.link.pid), before)]
    assert grown[0] < 16 << 20 and grown[1] < (128 + 16) << 20, [n >> 20 for n in grown]


def _resident(pid):
    with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("operation", ["embed", "register"])
def test_a_child_killed_in_the_middle_is_told_in_a_line_and_another_one_does_the_work(new_child, operation, scans):
    client = new_child()
    if operation == "embed":
        steps = begin_slowly(client)
    else:
        texts = []
        arguments = lambda: {"fixed": scans[0].source(), "moving": scans[0].source()}  # noqa: E731
        steps = client.steps("register", [scans[0]] * 2, arguments, lambda f, text, stage: texts.append(stage))
        until(client, steps, lambda: "work" in texts)
    os.kill(client.link.pid, signal.SIGKILL)
    with pytest.raises(ServerError) as raised:
        client.run(steps)
    assert "killed from outside" in raised.value.cause and "\n" not in str(raised.value)
    assert is_gone(client.link.pid) and not client.is_waiting()
    with pytest.raises(ServerError):
        client.run(embed(client, scans[0]))  # gone is gone
    assert len(match(new_child(), scans)) == len(POINTS)


def test_work_is_stopped_at_once_even_inside_a_kernel(new_child):
    client = new_child()
    steps = begin_slowly(client, STUCK)
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
    time.sleep(0.3)
    client.poll()
    assert client.is_stuck(0.1)
    client.link.kill()
    assert is_gone(client.link.pid)


def test_a_child_that_is_let_go_ends_even_inside_a_kernel(new_child):
    client = new_child()
    begin_slowly(client, STUCK)
    client.link.close()
    assert is_gone(client.link.pid)


@pytest.mark.parametrize("how", ["killed", "in kernel"])
def test_no_process_stays_when_the_client_is_killed(tmp_path, how):
    code = f"""if True:
        import sys, time
        sys.path.insert(0, {ROOT!r})
        from Testing.core.serve.test_child import *
        from Testing.samples.small_service import child_command
        link = ChildLink(command=child_command()); link.start()
        client = Client(link)
        steps = begin_slowly(client, {(STUCK if how == "in kernel" else SLOW)!r})
        waiting = shared.Shared((1000,), np.int16)  # on its way when the blow falls
        print(link.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert is_alive(pid) and left_over(parent.pid)
    parent.kill()
    parent.wait()
    assert is_gone(pid) and not left_over(parent.pid, pid)


def test_nobody_else_is_taken_for_the_child(new_child, scans):
    """Whoever connects to the port without the token is refused, and the child that comes later is not."""
    link = ChildLink(command=[sys.executable, "-c", "import time; time.sleep(60)"])
    link.start()
    try:
        port = link._listener.getsockname()[1]
        for said in (b"SAM2\x02\0\0\0{}", b"GET / HTTP/1.1\r\n\r\n", b""):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
                for _ in range(5):
                    assert link.receive(0.05) == []
        assert not link.is_up and not link.problem
    finally:
        link.kill()


def test_what_cannot_start_says_so(tmp_path):
    with pytest.raises(ServerError, match="cannot be started"):
        ChildLink(python=str(tmp_path / "python")).start()
    link = ChildLink(command=[sys.executable, "-c", "import sys; sys.exit('torch is broken here')"])
    link.start()
    client = Client(link)
    call = client.request("hello", {})
    end = time.monotonic() + 20
    while not call.is_done and time.monotonic() < end:
        client.poll(0.05)
    assert "torch is broken here" in call.error.cause


def test_the_client_loads_no_torch():
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r}); sys.modules['torch'] = None\n"
        "from SAMv2Core.serve.client import Client; from SAMv2Core.serve.child_link import ChildLink\n"
        "from SAMv2Core.serve.http_link import HttpLink; from SAMv2Core.serve import values\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'scipy', 'SimpleITK', 'vtk'}\n"
        "assert not heavy, heavy\n"
        "import importlib; [importlib.import_module('SAMv2Core.' + home) for home in values.TYPES.values()]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_shared_is_not_copied_once_more():
    """The scan here, the same in shared memory (which tracemalloc does not see), and nothing else of its size."""
    array = np.ones((64, 256, 256), np.int16)  # 8 MiB
    tracemalloc.start()
    try:
        prepared = Prepared({"id": 1}, [array])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(prepared.memories) == 1 and (prepared.memories[0].array == array).all()
    prepared.release()
    assert most < array.nbytes / 8
