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
        queue.put("c", 3)
    assert queue.take() == 1
    queue.put("c", 3)
    assert len(queue) == 2


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
