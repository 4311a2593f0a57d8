"""The order in which waiting requests come."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.server.fair_queue import FairQueue, QueueFullError


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_owners_take_turns_and_nothing_is_lost(owners: list[str]) -> None:
    queue = FairQueue[tuple[str, int]](30)
    for number, owner in enumerate(owners):
        queue.put(owner, (owner, number))
    taken = [item for _ in owners if (item := queue.take()) is not None]
    assert sorted(taken) == sorted((owner, number) for number, owner in enumerate(owners))
    for owner in set(owners):
        own = [number for each, number in taken if each == owner]
        assert own == sorted(own)
    # While several wait, nobody gets a second turn before all others had one.
    left = Counter(owners)
    for (first, _), (second, _) in pairwise(taken):
        left[first] -= 1
        others = [owner for owner in left if owner != first and left[owner]]
        assert second != first or not others


def test_a_full_queue_refuses_and_takes_again_when_there_is_room() -> None:
    queue = FairQueue[int](2)
    queue.put("a", 1)
    queue.put("b", 2)
    with pytest.raises(QueueFullError):
        queue.put("b", 3)
    assert queue.take() == 1
    queue.put("b", 3)
    assert len(queue) == 2


def test_an_owner_cannot_take_the_places_of_all() -> None:
    queue = FairQueue[int](2)
    queue.put("many", 1)
    queue.put("many", 2)
    queue.put("one", 3)
    for owner in ("many", "one"):
        with pytest.raises(QueueFullError):
            queue.put(owner, 4)
    assert [queue.take() for _ in range(3)] == [1, 3, 2]
    queue.close()
    with pytest.raises(QueueFullError):
        queue.put("new", 5)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_what_is_removed_is_not_taken_and_all_else_is(given_: list[tuple[str, bool]]) -> None:
    queue = FairQueue[int](30)
    for number, (owner, _) in enumerate(given_):
        queue.put(owner, number)
    for number, (owner, stays) in enumerate(given_):
        if not stays:
            queue.remove(owner, number)
            queue.remove(owner, number)  # it is gone, and nothing happens
    kept = [number for number, (_, stays) in enumerate(given_) if stays]
    assert len(queue) == len(kept)
    assert sorted(item for _ in kept if (item := queue.take()) is not None) == kept
    assert len(queue) == 0


def test_who_waits_for_an_item_gets_it_or_the_end() -> None:
    queue, found = FairQueue[int](1), list[int | None]()
    taker = Thread(target=lambda: found.extend((queue.take(), queue.take())))
    taker.start()
    queue.put("a", 5)
    while len(found) < 1 and len(queue):
        pass
    queue.close()
    taker.join(10)
    assert found == [5, None]
