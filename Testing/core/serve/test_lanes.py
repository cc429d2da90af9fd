"""Turns of several clients."""

import threading

from SAMv2Core.serve.lanes import Lane


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
