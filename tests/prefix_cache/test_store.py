"""Which blocks are found again, and which are deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from cached import ROOT, add, chain_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lrqk_cli.prefix_cache import store as store_module
from lrqk_cli.prefix_cache.store import Block, PrefixStore, next_block, root_of

TEXT = list(range(100, 160))
SIZE = 1000


@pytest.fixture
def store(tmp_path):
    return PrefixStore(tmp_path / "documents", limit=1 << 40)


def put(store: PrefixStore, chain: list[Block], used: float, *, size: int = SIZE) -> list[Block]:
    """Write files of ``size`` bytes; what is in them does not matter to the store."""
    store.make_folder()
    for block in chain:
        put_file(store.path(block), used, size)
    return chain


def put_file(path: Path, used: float, size: int = SIZE) -> None:
    path.write_bytes(bytes(size))
    os.utime(path, (used, used))


def names(store: PrefixStore) -> set[str]:
    return {file.path.name for file in store.files()}


def of(*chains: list[Block]) -> set[str]:
    return {block.name for chain in chains for block in chain}


def test_a_chain_is_found_up_to_its_last_whole_block(store):
    chain = put(store, chain_of(TEXT, [10, 25, 30]), 1)
    assert store.longest(ROOT, TEXT) == chain
    assert store.longest(ROOT, TEXT[:30]) == chain
    assert store.longest(ROOT, TEXT[:29]) == chain[:2]
    assert store.longest(ROOT, TEXT[:9]) == []
    assert store.longest(ROOT, [*TEXT[:12], 7, *TEXT[13:]]) == chain[:1]
    assert store.longest(root_of({"model": "other"}), TEXT) == []


def test_nothing_is_found_in_a_folder_that_is_not_there(store):
    assert store.longest(ROOT, TEXT) == []
    assert (store.files(), store.size(), store.prune(), store.clear(), store.remove(["x"])) == (
        [],
        0,
        0,
        0,
        0,
    )
    assert not store.folder.exists()


def test_of_chains_that_branch_the_longest_is_found(store):
    put(store, chain_of(TEXT, [10, 40]), 1)
    # Two blocks begin alike; the shorter one leads further.
    longest = put(store, chain_of(TEXT, [8, 20, 50]), 1)
    put(store, chain_of([*TEXT[:20], *range(40)], [8, 20, 45, 60]), 1)
    assert store.longest(ROOT, TEXT) == longest
    assert store.longest(ROOT, TEXT[:45]) == chain_of(TEXT, [10, 40])


texts = st.lists(st.integers(0, 1), min_size=1, max_size=12)
with_ends = texts.flatmap(
    lambda text: st.tuples(
        st.just(text), st.sets(st.integers(1, len(text)), max_size=4).map(lambda ends: sorted(ends))
    )
)


@given(st.lists(with_ends, max_size=5), texts)
@settings(deadline=None, max_examples=150)
def test_the_longest_is_the_longest_common_prefix_that_ends_with_a_block(stored, wanted):
    with TemporaryDirectory() as folder:
        store = PrefixStore(Path(folder) / "documents")
        for text, ends in stored:
            put(store, chain_of(text, ends), 1)
        found = store.longest(ROOT, wanted)
        common = [end for text, ends in stored for end in ends if text[:end] == wanted[:end]]
        assert sum(block.tokens for block in found) == max(common, default=0)
        start, parent = 0, ROOT
        for block in found:
            assert block == next_block(parent, wanted[start : start + block.tokens])
            assert store.has(store.path(block))
            start, parent = start + block.tokens, block.key


def test_the_parts_of_a_root_do_not_run_into_each_other():
    roots = {root_of(parts) for parts in ({"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {}, {"a": "b"})}
    assert len(roots) == 5
    assert root_of({"a": "1", "b": "2"}) == root_of({"b": "2", "a": "1"})


def test_the_folder_is_for_its_owner_only(store):
    store.make_folder()
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_the_least_recently_used_goes_first(store, tmp_path):
    old, middle, new = (put(store, chain_of([number], [1]), number) for number in (1, 2, 3))
    assert PrefixStore(store.folder, 3 * SIZE).prune() == 0
    assert PrefixStore(store.folder, 3 * SIZE - 1).prune() == SIZE
    assert names(store) == of(middle, new)
    assert old
    store.touch([store.path(middle[0]), tmp_path / "gone"])
    assert PrefixStore(store.folder, 2 * SIZE).prune(room=1) == SIZE
    assert names(store) == of(middle)


def test_room_is_counted_and_kept_chains_stay(store):
    kept = put(store, chain_of(TEXT, [10, 20]), 1)
    state = store.state_path(kept[-1].key, "some")
    put_file(state, 1)
    put(store, chain_of([1], [1]), 2)
    keys = [block.key for block in kept]
    assert PrefixStore(store.folder, 4 * SIZE).prune(keys, room=SIZE) == SIZE
    assert PrefixStore(store.folder, 1).prune(keys) == 0
    assert names(store) == of(kept) | {state.name}
    # The end of a chain is enough to keep all of it.
    assert PrefixStore(store.folder, 1).prune(keys[-1:]) == 0


def test_a_block_goes_after_all_that_needs_it_although_it_is_older(store):
    first, last = put(store, chain_of(TEXT, [10, 20]), 1)
    os.utime(store.path(last), (9, 9))
    state = store.state_path(first.key, "some")
    put_file(state, 7)
    other = put(store, chain_of([1], [1]), 5)
    assert PrefixStore(store.folder, 3 * SIZE).prune() == SIZE
    assert names(store) == of([first, last]) | {state.name}
    assert other
    assert PrefixStore(store.folder, 2 * SIZE).prune() == SIZE
    assert names(store) == of([first, last])
    assert PrefixStore(store.folder, SIZE).prune() == SIZE
    assert names(store) == of([first])
    assert PrefixStore(store.folder, 0).prune() == SIZE
    assert names(store) == set()


def test_of_files_used_at_the_same_time_the_end_of_a_chain_goes_first(store):
    chain = put(store, chain_of(TEXT, range(5, 60, 5)), 4)
    while chain:
        assert store.longest(ROOT, TEXT) == chain
        PrefixStore(store.folder, SIZE * len(chain) - 1).prune()
        chain.pop()
    assert names(store) == set()


def test_a_chain_that_has_lost_a_block_is_deleted(store):
    first, second, third = put(store, chain_of(TEXT, [10, 20, 30]), 1)
    put_file(store.state_path(third.key, "some"), 1)
    put_file(store.state_path("0" * 32, "some"), 1)
    put_file(store.folder / "circle.circle.3.block", 1)
    put_file(store.folder / "wrong.block", 1)
    put_file(store.folder / f"{first.key}.{first.parent}.007.block", 1)
    store.path(second).unlink()
    assert store.longest(ROOT, TEXT) == [first]
    assert store.prune() >= 4 * SIZE
    assert {file.path.name for file in store.files() if file.block is not None} == {first.name}
    assert not [file for file in store.files() if file.is_state]


def test_a_block_that_came_while_the_folder_was_read_stays(store):
    """Another process publishes a block and the next one; a look at the folder may see only the second."""
    _, second, third = put(store, chain_of(TEXT, [10, 20, 30]), time.time())
    state = store.state_path(third.key, "some")
    put_file(state, time.time())
    scan = PrefixStore._scan

    def without_first(self, endings):
        return (file for file in scan(self, endings) if file.block is None or not file.block.is_first)

    with patch.object(PrefixStore, "_scan", without_first):
        assert store.prune() == 0
    assert {second.name, third.name, state.name} <= names(store)


def test_what_is_removed_takes_with_it_what_needs_it(store):
    chain = put(store, chain_of(TEXT, [10, 20, 30]), 1)
    put_file(store.state_path(chain[2].key, "some"), 1)
    other = put(store, chain_of([*TEXT[:10], 1], [10, 11]), 1)
    assert store.remove([chain[1].key]) == 3 * SIZE
    assert names(store) == of(other)
    assert store.remove([chain[1].key]) == 0


def test_abandoned_files_are_deleted_and_those_in_work_are_not(store):
    store.make_folder()
    now = time.time()
    put_file(store.folder / "abandoned.part", now - 7200)
    put_file(store.folder / "in-work.part", now - 60)
    put_file(store.folder / "unrelated.txt", 1)
    assert (store.size(), store.files()) == (2 * SIZE, [])
    assert store.prune() == SIZE
    assert store.clear() == SIZE
    assert [path.name for path in store.folder.iterdir()] == ["unrelated.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes need a Unix system")
def test_links_folders_and_pipes_are_none_of_its_files(store, tmp_path):
    store.make_folder()
    (tmp_path / "mine.txt").write_text("mine")
    (store.folder / "link.block").symlink_to(tmp_path / "mine.txt")
    (store.folder / "folder.state").mkdir()
    os.mkfifo(store.folder / "pipe.block")
    assert (store.files(), store.clear()) == ([], 0)


def test_without_a_limit_it_takes_a_quarter_of_what_is_free_without_it(store, monkeypatch):
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=9 * SIZE))
    automatic = PrefixStore(store.folder)
    assert automatic.limit == 9 * SIZE // 4
    for number in range(3):
        put(store, chain_of([number], [1]), number)
    assert automatic.limit == 12 * SIZE // 4
    assert automatic.prune() == 0
    assert automatic.prune(room=1) == SIZE


def test_files_that_vanish_meanwhile_do_no_harm(store, monkeypatch):
    chains = [put(store, chain_of([number], [1]), number) for number in range(4)]
    found = store.files()
    store.path(chains[0][0]).unlink()
    store.path(chains[1][0]).unlink()
    # Another process deletes two files after they were listed.
    pruning = PrefixStore(store.folder, 2 * SIZE)
    monkeypatch.setattr(pruning, "files", lambda: found)
    monkeypatch.setattr(pruning, "size", lambda: 4 * SIZE)
    assert pruning.prune() == 0
    assert names(store) == of(*chains[2:])
    assert store.delete(found) == 2 * SIZE


def test_a_file_that_cannot_be_deleted_keeps_its_chain(store, monkeypatch):
    first, last = put(store, chain_of(TEXT, [10, 20]), 1)
    unlink = Path.unlink

    def refuse(path: Path, **settings: bool) -> None:
        if path == store.path(last):
            raise PermissionError
        unlink(path, **settings)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert PrefixStore(store.folder, 0).prune() == 0
    assert names(store) == of([first, last])


def test_two_stores_share_a_folder(store):
    other = PrefixStore(store.folder, limit=2 * SIZE)
    chain = put(store, chain_of(TEXT, [10]), 1)
    assert other.longest(ROOT, TEXT) == chain
    longer = put(other, chain_of(TEXT, [10, 20]), 2)
    assert store.longest(ROOT, TEXT) == longer
    put(store, chain_of([1], [1]), 3)
    assert other.prune() == SIZE
    assert store.longest(ROOT, TEXT) == chain
    assert other.clear() == 2 * SIZE
    assert store.longest(ROOT, TEXT) == []


def test_a_block_leads_to_the_next():
    first = next_block(ROOT, [1, 2])
    assert first.is_first
    assert first.after([3]) == next_block(first.key, [3]) != next_block(ROOT, [3])
    assert not first.after([3]).is_first


def test_files_as_an_engine_leaves_them_are_found(store):
    chain = add(store, TEXT, [10, 20], states=["some"])
    assert store.longest(ROOT, TEXT) == chain
    assert {(file.key, file.needs, file.is_state) for file in store.files()} == {
        (chain[0].key, ROOT, False),
        (chain[1].key, chain[0].key, False),
        (chain[1].key, chain[1].key, True),
    }
