"""Turns of several clients."""

import os
import sys
import threading

import pytest

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
def test_a_yielding_lane_leaves_the_processor_to_others_and_so_do_its_threads():
    found = []

    def look():
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def look_from_a_thread_of_its_own():
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    own = os.getpriority(os.PRIO_PROCESS, 0)
    for is_yielding in (False, True):
        lane, done = Lane("test", is_yielding), threading.Event()
        lane.add("a", look_from_a_thread_of_its_own)
        lane.add("a", done.set)
        assert done.wait(10)
        lane.close()
    assert found == [own, own, max(own, YIELDING_NICE), max(own, YIELDING_NICE)]
