"""Turns of several clients."""

import os
import subprocess
import sys
import threading

import pytest

from SAMv2Core.serve import lanes
from SAMv2Core.serve.lanes import YIELDING_NICE, Lane


def test_clients_take_turns_however_much_one_of_them_wants():
    lane, gate, done, order = Lane("test"), threading.Event(), threading.Event(), []
    lane.add("first", gate.wait)  # holds the lane until all have queued
    for n in range(4):
        lane.add("greedy", lambda n=n: order.append(f"greedy {n}"))
    for name in ("modest", "other"):
        lane.add(name, lambda name=name: order.append(name))
    lane.add("other", done.set)
    assert lane.n_waiting("greedy") == 4
    gate.set()
    assert done.wait(10)
    assert set(order[:3]) == {"greedy 0", "modest", "other"}
    lane.close()


def test_a_closed_lane_begins_nothing():
    lane, gate, ran = Lane("test"), threading.Event(), []
    lane.add("a", gate.wait)
    lane.add("a", lambda: ran.append(1))
    lane.close()
    gate.set()
    lane.add("b", lambda: ran.append(2))
    assert not ran


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own elsewhere")
@pytest.mark.parametrize("started_nice", [0, 19])
def test_a_yielding_lane_leaves_the_processor_to_others_and_so_do_its_threads(started_nice, monkeypatch):
    """Also where the process that started this one has the lowest priority, as 3D Slicer for Linux has."""
    monkeypatch.setattr(lanes, "STARTED_NICE", started_nice)
    found = []

    def look():
        thread = threading.get_native_id()
        found.append((os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)))

    def look_from_a_thread_of_its_own():
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    own = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    for is_yielding in (False, True):
        lane, done = Lane("test", is_yielding), threading.Event()
        lane.add("a", look_from_a_thread_of_its_own)
        lane.add("a", done.set)
        assert done.wait(10)
        lane.close()
    yielding = (os.SCHED_OTHER, YIELDING_NICE) if started_nice == 0 else (os.SCHED_IDLE, own[1])
    assert found == [own, own, yielding, yielding]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own elsewhere")
def test_a_child_of_3d_slicer_rises_from_the_lowest_priority_where_that_is_allowed():
    code = """
import os, threading, time
from SAMv2Core.serve import lanes
os.nice(19)
try:
    os.setpriority(os.PRIO_PROCESS, 0, 0)
except OSError:
    wanted = 19
else:
    os.nice(19)
    wanted = 0
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # as a library's, that is there already
lanes.rise()
assert {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task")} == {wanted}
os.nice(5)
before = os.getpriority(os.PRIO_PROCESS, 0)
lanes.rise()  # anything but the lowest was chosen by somebody
assert os.getpriority(os.PRIO_PROCESS, 0) == before or wanted == before == 19
"""
    subprocess.run([sys.executable, "-c", code], check=True)
