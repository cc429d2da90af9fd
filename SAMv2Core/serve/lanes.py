"""Who computes when: lanes beside one another, in each the clients take turns.

A scan takes minutes to embed and a place of a moving cursor milliseconds to find, so what is quick must never wait for
what is slow: each kind of work has a thread of its own. Within a lane every client that waits gets one turn after the
other, however many requests one of them has sent. On Linux a lane may yield its processor to everything else, too: the
threads that torch makes for it inherit that.

3D Slicer for Linux gives its own main thread the lowest priority, and what it starts inherits it
(vtkSlicerApplicationLogic::SetCurrentThreadPriorityToBackground means a background thread and names the process, which
is the main thread there). Below that is the scheduling class SCHED_IDLE, for what yields; what does not yield rises
again where that is allowed (:func:`rise`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import OrderedDict, deque
from typing import Callable, Deque, Optional

Work = Callable[[], None]

YIELDING_NICE = 10
"""A window and what answers a hand on the mouse get some ten times as much of a processor that is wanted by both."""

LOWEST_NICE = 19

STARTED_NICE = os.getpriority(os.PRIO_PROCESS, 0) if sys.platform == "linux" else 0
"""What this process was started with, and what started it has: it must not be held up, either."""


class Lane:
    """One thread that works for several clients in turn; it starts with the first work.

    :param is_yielding: it takes what processor time others leave.
    """

    def __init__(self, name: str, is_yielding: bool = False) -> None:
        self._name, self._is_yielding = name, is_yielding
        self._waiting: OrderedDict[str, Deque[Work]] = OrderedDict()
        self._condition = threading.Condition()
        self._thread: Optional[threading.Thread] = None
        self._is_closed = False

    def add(self, client: str, work: Work) -> None:
        """Queue some work, which must not raise."""
        with self._condition:
            self._waiting.setdefault(client, deque()).append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"samv2 {self._name}", daemon=True)
                self._thread.start()
            self._condition.notify()

    def n_waiting(self, client: str) -> int:
        """How many works of a client have not begun."""
        with self._condition:
            return len(self._waiting.get(client, ()))

    def close(self) -> None:
        """Begin nothing more."""
        with self._condition:
            self._is_closed = True
            self._waiting.clear()
            self._condition.notify()

    def _run(self) -> None:
        if self._is_yielding and sys.platform == "linux":  # elsewhere there is a priority of whole processes only
            with contextlib.suppress(OSError):
                _yield()
        while True:
            with self._condition:
                while not self._waiting and not self._is_closed:
                    self._condition.wait()
                if self._is_closed:
                    return
                client, queue = next(iter(self._waiting.items()))
                work = queue.popleft()
                self._waiting.move_to_end(client)  # everyone else who waits is before him now
                if not queue:
                    del self._waiting[client]
            work()
            del work


def rise() -> None:
    """Leave the lowest priority again, where that is allowed, with the threads that libraries have started already."""
    if sys.platform == "linux" and os.getpriority(os.PRIO_PROCESS, 0) == LOWEST_NICE:
        with contextlib.suppress(OSError):
            for thread in os.listdir("/proc/self/task"):
                os.setpriority(os.PRIO_PROCESS, int(thread), 0)


def _yield() -> None:
    """Let this thread and those that it starts give way to the others of this process, and to what started it."""
    thread = threading.get_native_id()
    if STARTED_NICE + YIELDING_NICE <= LOWEST_NICE:
        os.setpriority(os.PRIO_PROCESS, thread, STARTED_NICE + YIELDING_NICE)
    else:
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
