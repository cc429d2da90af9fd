"""A service in this process, and one in a child that several tests share."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from SAMv2Core.serve.child_link import ChildLink
from SAMv2Core.serve.client import Client, Scan
from SAMv2Core.serve.frames import Frame, FrameReader, to_bytes
from Testing.samples.embedding_samples import torso
from Testing.samples.small_service import child_command, small_service

POINTS = np.array([[0.0, 0.0, 130.0], [3.0, 4.0, 150.0], [500.0, 0.0, 0.0]])


def small_torso(seed, source=""):
    return torso((30, 28, 32), seed, source or f"/data/Müller Anna {seed}.nii.gz")


class InPlace:
    """A link to a service in this process; frames are packed and read as on the way to another one."""

    needs_threads, is_up, pid, problem = False, True, 0, ""

    def __init__(self, service, client="a client"):
        self.service, self.client, self.arrived = service, client, []

    def prepare(self, header, arrays):
        return SimpleNamespace(frame=self._travelled(header, arrays), release=lambda: None)

    def send(self, prepared):
        frame = prepared.frame
        self.service.submit(self.client, frame, lambda header, arrays: self.arrived.append(Frame(header, arrays)))

    def receive(self, seconds=0.0):
        arrived, self.arrived = self.arrived, []
        return [self._travelled(frame.header, frame.arrays) for frame in arrived]

    @staticmethod
    def _travelled(header, arrays):
        return FrameReader().feed(to_bytes(header, arrays, compress=True))[0]


@pytest.fixture
def service():
    service = small_service()
    yield service
    service.close()


@pytest.fixture
def scans():
    """Fresh scans of two bodies; their names must not travel."""
    return [Scan(small_torso(n), f"Müller Anna {n}") for n in (0, 1)]


@pytest.fixture(scope="session")
def shared_child():
    link = ChildLink(command=child_command())
    link.start()
    client = Client(link)
    yield client
    link.close()
    assert link.wait(5)


@pytest.fixture
def new_child():
    """Starts children, and sees them off."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            link = ChildLink(command=child_command(), **options)
            stack.callback(link.kill)
            link.start()
            return Client(link)

        yield start
