"""What is kept, for whom, and what goes when there is no more room."""

import pytest

from SAMv2Core.errors import MemoryLimitError
from SAMv2Core.serve.store import EMBEDDING, VOLUME, Store


def test_the_least_recently_used_goes_first():
    store = Store(100)
    for name in "abc":
        store.put((VOLUME, name), name, 30, "x")
    assert store.get((VOLUME, "a")) == "a"
    store.put((VOLUME, "d"), "d", 30, "x")
    assert [store.has((VOLUME, name)) for name in "abcd"] == [True, False, True, True]
    assert store.n_bytes() == 90


def test_what_was_just_made_is_kept_even_alone():
    store = Store(100)
    store.put((VOLUME, "a"), "a", 90, "x")
    store.put((EMBEDDING, "a", "auto"), "e", 150, "x")
    assert store.get((EMBEDDING, "a", "auto")) == "e" and not store.has((VOLUME, "a"))


def test_room_is_reserved_given_back_and_refused():
    store = Store(100)
    store.put((VOLUME, "a"), "a", 60, "x")
    with store.reserved() as reserve:
        reserve(70)
        assert not store.has((VOLUME, "a")) and store.n_bytes() == 70
        with pytest.raises(MemoryLimitError):
            reserve(31)
    assert store.n_bytes() == 0


def test_one_clients_forgetting_takes_nothing_from_another():
    store = Store(100)
    store.put((VOLUME, "a"), "a", 10, "x")
    store.put((VOLUME, "a"), "a", 10, "y")
    store.put((EMBEDDING, "a", "auto"), "e", 10, "x")
    store.forget("x", "a")
    assert store.has((VOLUME, "a")) and not store.has((EMBEDDING, "a", "auto"))
    store.forget("z", "a")
    assert store.has((VOLUME, "a"))
    store.forget("y", "a")
    assert store.n_bytes() == 0
