"""What a user sees of the cache, how it is named, and what is deleted with it."""

from __future__ import annotations

import json
import os

import pytest
from cached import ROOT, add, chain_of, damage, label, write
from hypothesis import given, settings
from hypothesis import strategies as st

from lrqk_cli.errors import UsageError
from lrqk_cli.prefix_cache import entries as entries_module
from lrqk_cli.prefix_cache.entries import PrefixLabel, entries, find, remove
from lrqk_cli.prefix_cache.store import PrefixStore
from lrqk_cli.prefix_cache.tensor_file import write_tensors

TEXT = list(range(60))


@pytest.fixture
def store(tmp_path):
    return PrefixStore(tmp_path / "documents", limit=1 << 40)


def size_of(store, *blocks) -> int:
    return sum(store.path(block).stat().st_size for block in blocks)


def titles(entry) -> list[str]:
    return [document.title for document in entry.label.documents]


def test_an_empty_cache_has_no_entries(store):
    assert entries(store) == []


def test_a_chain_is_one_entry(store):
    chain = add(store, TEXT, [10, 30, 60], text=label("a.pdf", "b.txt"), used=100.0)
    (entry,) = entries(store)
    assert (entry.key, entry.tokens, entry.used, entry.is_damaged) == (chain[-1].key, 60, 100.0, False)
    assert entry.nbytes == entry.own_bytes == store.size() == size_of(store, *chain)
    assert entry.label.model == "tiny"
    assert titles(entry) == ["a.pdf", "b.txt"]
    assert [(document.pages, document.tokens) for document in entry.label.documents] == [(2, 30)] * 2
    assert entry.key.startswith(entry.short_key)


def test_chains_that_share_blocks_are_two_entries_the_last_used_first(store):
    older = add(store, TEXT, [10, 20, 30], text=label("a"), used=5.0)
    newer = add(store, [*TEXT[:20], *TEXT[:9]], [10, 20, 29], text=label("b"), used=7.0)
    first, second = entries(store)
    assert [first.key, second.key] == [newer[-1].key, older[-1].key]
    assert (first.own_bytes, second.own_bytes) == (size_of(store, newer[-1]), size_of(store, older[-1]))
    assert first.nbytes == size_of(store, *newer)
    # Removing one leaves the other whole; removing that frees the shared blocks too.
    assert remove(store, first) == first.own_bytes
    assert [entry.key for entry in entries(store)] == [second.key]
    assert store.longest(ROOT, TEXT) == older
    assert remove(store, second) == second.nbytes
    assert store.size() == 0
    assert remove(store, second) == 0


def test_a_block_with_a_state_is_an_entry_although_another_follows(store):
    short = add(store, TEXT, [10, 20], states=["some", "other"], text=label("a"))
    long = add(store, TEXT, [10, 20, 40], text=label("a", "b"))
    found = {entry.key: entry for entry in entries(store)}
    assert set(found) == {short[-1].key, long[-1].key}
    state = store.state_path(short[-1].key, "some")
    entry = found[short[-1].key]
    assert entry.tokens == 20
    assert entry.own_bytes == 2 * state.stat().st_size
    assert entry.nbytes == entry.own_bytes + size_of(store, *short)
    assert found[long[-1].key].nbytes == size_of(store, *long)
    assert remove(store, entry) == entry.own_bytes
    assert [left.key for left in entries(store)] == [long[-1].key]
    assert store.longest(ROOT, TEXT) == long


def test_removing_the_longer_text_leaves_the_shorter_with_its_state(store):
    short = add(store, TEXT, [10, 20], states=["some"])
    add(store, TEXT, [10, 20, 30, 40])
    long = next(entry for entry in entries(store) if entry.tokens == 40)
    remove(store, long)
    assert [(entry.key, entry.tokens) for entry in entries(store)] == [(short[-1].key, 20)]
    assert store.has(store.state_path(short[-1].key, "some"))


def test_the_newest_label_of_the_end_counts(store):
    chain = add(store, TEXT, [10], text=label("old name.pdf"), used=5.0)
    state = store.state_path(chain[-1].key, "some")
    write(store, state, label("new name.pdf"))
    assert titles(entries(store)[0]) == ["new name.pdf"]
    os.utime(state, (1, 1))
    assert titles(entries(store)[0]) == ["old name.pdf"]
    damage(store.path(chain[-1]))
    assert titles(entries(store)[0]) == ["new name.pdf"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_entry_with_a_damaged_file_is_listed_and_can_be_removed(store, number):
    whole = add(store, [7, 8], [1, 2], text=label("whole"))
    chain = add(store, TEXT, [10, 20], states=["some"], text=label("damaged"))
    damage([*map(store.path, chain), store.state_path(chain[-1].key, "some")][number])
    found = {entry.key: entry for entry in entries(store)}
    assert found[chain[-1].key].is_damaged
    assert titles(found[chain[-1].key]) == ["damaged"]
    assert not found[whole[-1].key].is_damaged
    remove(store, found[chain[-1].key])
    assert [entry.key for entry in entries(store)] == [whole[-1].key]
    assert store.size() == size_of(store, *whole)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 5000])
def test_a_file_of_nonsense_is_damaged(store, content):
    (block,) = add(store, TEXT, [10])
    store.path(block).write_bytes(content)
    (entry,) = entries(store)
    assert (entry.is_damaged, entry.label, entry.tokens) == (True, PrefixLabel(), 10)
    remove(store, entry)
    assert not list(store.folder.iterdir())


def test_an_unreadable_file_is_damaged(store, monkeypatch):
    add(store, TEXT, [10])

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(entries_module, "read_metadata", refuse)
    assert entries(store)[0].is_damaged


def test_what_has_lost_a_block_is_damaged(store):
    chain = add(store, TEXT, [10, 20, 30], states=["some"])
    store.path(chain[1]).unlink()
    first, last = sorted(entries(store), key=lambda entry: entry.key != chain[0].key)
    assert (first.key, first.is_damaged) == (chain[0].key, False)
    assert (last.key, last.is_damaged, last.tokens) == (chain[2].key, True, 10)
    store.path(chain[2]).unlink()
    last = next(entry for entry in entries(store) if entry.key != chain[0].key)
    assert (last.key, last.is_damaged, last.tokens) == (chain[2].key, True, 0)
    remove(store, last)
    assert [entry.key for entry in entries(store)] == [chain[0].key]


def test_every_file_belongs_to_an_entry_whatever_its_name(store):
    add(store, TEXT, [10, 20])
    (block,) = add(store, [5], [1])
    for name in (
        "aaaa.bbbb.3.block",
        "bbbb.aaaa.3.block",
        "cccc.cccc.1.block",
        ".block",
        "dddd.block",
        "dddd.some.state",
        ".state",
        "....state",
        "eeee.r.-1.block",
        f"{block.key}.rother.7.block",
        "ffff.\u202e.3.block",
    ):
        (store.folder / name).write_bytes(b"x")
    found = entries(store)
    assert sum(entry.is_damaged for entry in found) == len(found) - 1
    for entry in found:
        remove(store, entry)
    assert store.size() == 0


labels = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model", "documents", "title", "pages", "tokens", "x"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({"documents": st.lists(labels, max_size=3) | labels, "model": labels}) | labels)
@settings(deadline=None)
def test_any_json_makes_a_label_of_lines_and_numbers(value):
    found = entries_module._label({"label": json.dumps(value)})
    assert "\n" not in found.model
    for document in found.documents:
        assert isinstance(document.title, str)
        assert 0 <= document.pages < 1 << 63
        assert type(document.pages) is type(document.tokens) is int
    assert PrefixLabel(found.model, found.documents) == found


@pytest.mark.parametrize(
    "metadata",
    [{}, {"label": ""}, {"label": "[" * 100_000}, {"label": "9" * 5000}, {"label": 3}, None, [], "label", 3],
    ids=range(9),
)
def test_metadata_that_say_nothing_give_an_empty_label(metadata):
    assert entries_module._label(metadata) == PrefixLabel()


def test_metadata_of_any_kind_do_not_break_a_listing(store):
    import xxhash

    (block,) = add(store, TEXT, [10])
    header = json.dumps({"__metadata__": [3], "checksums": {"data_offsets": [0, 8]}}).encode()
    start = len(header).to_bytes(8, "little") + header
    store.path(block).write_bytes(start + xxhash.xxh3_64_digest(start))
    assert entries(store)[0].label == PrefixLabel()


def test_titles_are_one_short_line(store):
    add(store, TEXT, [10], text=label("a\r\nError: \t b", "x" * 10_000, model="m\n\n"))
    found = entries(store)[0].label
    assert [document.title for document in found.documents] == ["a Error: b", "x" * 200]
    assert found.model == "m"


def test_a_name_is_the_start_of_a_key_or_a_title(store):
    report = add(store, TEXT, [10], text=label("Annual Report.pdf", "appendix"))[-1]
    notes = add(store, [3, 4], [2], text=label("notes.md"))[-1]
    for name in (report.key, report.key[:4], report.key[:8].upper(), "annual report.PDF", "appendix"):
        assert find(store, name).key == report.key
    assert find(store, "notes.md").key == notes.key


def test_a_name_that_means_nothing_is_told_with_the_nearest(store):
    with pytest.raises(UsageError, match="no 'x' in the cache") as refusal:
        find(store, "x")
    assert "lrqk cache list" in refusal.value.hint
    key = add(store, TEXT, [10], text=label("Annual Report.pdf"))[-1].key
    for name in (key[:3], "", key + "0", "report"):
        with pytest.raises(UsageError):
            find(store, name)
    with pytest.raises(UsageError) as refusal:
        find(store, "anual report.pdf")
    assert refusal.value.hint == "Did you mean Annual Report.pdf?"


def test_a_name_that_means_several_is_told_with_their_keys(store):
    keys = [add(store, [number], [1], text=label("same.pdf"))[-1].key for number in range(2)]
    with pytest.raises(UsageError, match="means 2 entries") as refusal:
        find(store, "same.pdf")
    assert all(key[:8] in refusal.value.hint for key in keys)
    write_tensors(store.folder / f"{keys[0][:4]}.some.state", {}, {})
    with pytest.raises(UsageError, match="means 2 entries"):
        find(store, keys[0][:4])


def test_files_that_vanish_while_they_are_listed_do_no_harm(store, monkeypatch):
    add(store, TEXT, [10, 20])
    found = store.files()
    store.clear()
    monkeypatch.setattr(store, "files", lambda: found)
    assert [entry.is_damaged for entry in entries(store)] == [True]


def test_a_file_is_opened_once(store, monkeypatch):
    add(store, TEXT, [10, 20, 30])
    add(store, TEXT, [10, 20, 40], states=["some"])
    opened = []
    read = entries_module.read_metadata
    monkeypatch.setattr(entries_module, "read_metadata", lambda path: opened.append(path) or read(path))
    assert len(entries(store)) == 2
    assert sorted(opened) == sorted(file.path for file in store.files())
    assert chain_of(TEXT, [10])[0].is_first
