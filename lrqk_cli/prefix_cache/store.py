"""The folder of the prefix cache: which blocks and states are there, and which to delete.

A *block* holds what was computed for some consecutive tokens, up to the end of a segment. Its name is a hash
of these tokens and of the block before it, so a chain of blocks from a root is a prefix that was read. A
*state* holds what some settings derive from a whole prefix; its name begins with that of the prefix's last
block. Files are never changed, so processes share the folder without locks: a file is there or not.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import shutil
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_BLOCK, _STATE, _PART = ".block", ".state", ".part"
# The first letter of a root, which no hash begins with.
_ROOT = "r"
# A part file of a process that still runs is younger.
_ABANDONED_AFTER_S = 3600.0
# A file that is younger may follow one that was published while the folder was read.
_SETTLED_AFTER_S = 60.0
# Without a limit, the cache takes this share of the disk space that is free without it.
_FREE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Block:
    """A block's place in its chain.

    Attributes:
        key: hash of the chain up to here; parent: of the chain before, or the root.
        tokens: how many it covers.
    """

    key: str
    parent: str
    tokens: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.key}.{self.parent}.{self.tokens}{_BLOCK}"

    @property
    def is_first(self) -> bool:
        """Whether no block stands before it."""
        return self.parent.startswith(_ROOT)

    def after(self, tokens: Sequence[int]) -> Block:
        """Return the block of the tokens that follow this one."""
        return next_block(self.key, tokens)


def next_block(parent: str, tokens: Sequence[int]) -> Block:
    """Return the block of ``tokens`` after the chain ``parent``, or after a root."""
    digest = hashlib.blake2b(parent.encode(), digest_size=16)
    digest.update(array("q", tokens).tobytes())
    return Block(digest.hexdigest(), parent, len(tokens))


def root_of(parts: Mapping[str, str]) -> str:
    """Return the start of all chains that were computed in the same way.

    Args:
        parts: all that determines rows beside the tokens: model, types, versions.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(parts.items()):
        for text in (name, value):
            digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
    return _ROOT + digest.hexdigest()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the cache.

    Attributes:
        block: the block; None for a state, and for a file whose name is not that of a block.
        used: when it was last used, in seconds since the epoch.
    """

    path: Path
    block: Block | None
    size: int
    used: float

    @property
    def is_state(self) -> bool:
        """Whether it is a state."""
        return self.path.name.endswith(_STATE)

    @property
    def key(self) -> str:
        """The chain that the file needs: its own of a block, its prefix's of a state."""
        return self.path.name.split(".", 1)[0]

    @property
    def needs(self) -> str:
        """The chain without which the file cannot be used; empty for a file with a wrong name."""
        if self.is_state:
            return self.key
        return self.block.parent if self.block is not None else ""


class PrefixStore:
    """The files of the cache below one folder.

    Args:
        folder: is made with mode 0700 when something is written.
        limit: most bytes of all files; None takes a share of the free disk space.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = folder
        self._limit = limit

    @property
    def limit(self) -> int:
        """Most bytes of all files."""
        if self._limit is not None:
            return self._limit
        place = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        return int(_FREE_SHARE * (shutil.disk_usage(place).free + self.size()))

    def files(self) -> list[StoredFile]:
        """Return all finished files; files that vanish meanwhile are left out."""
        return list(self._scan((_BLOCK, _STATE)))

    def size(self) -> int:
        """Return the bytes of all files, unfinished ones included."""
        return sum(file.size for file in self._scan((_BLOCK, _STATE, _PART)))

    def path(self, block: Block) -> Path:
        """Return the path of a block's file."""
        return self.folder / block.name

    def state_path(self, key: str, settings: str) -> Path:
        """Return the path of the state of a prefix with some settings."""
        return self.folder / f"{key}.{settings}{_STATE}"

    def has(self, path: Path) -> bool:
        """Return whether a file is there."""
        return path.is_file()

    def make_folder(self) -> None:
        """Make the folder, for its owner only."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def longest(self, root: str, tokens: Sequence[int]) -> list[Block]:
        """Return the chain of blocks that covers the longest prefix of ``tokens``."""
        followers = defaultdict[str, list[Block]](list)
        for file in self.files():
            if file.block is not None and not file.is_state:
                followers[file.block.parent].append(file.block)
        best = list[Block]()
        # Every chain that fits, depth first: two blocks may begin with the same tokens.
        open_chains = [(0, list[Block]())]
        reached = 0
        while open_chains:
            start, chain = open_chains.pop()
            if start > reached:
                best, reached = chain, start
            parent = chain[-1].key if chain else root
            for block in followers[parent]:
                stop = start + block.tokens
                if stop <= len(tokens) and next_block(parent, tokens[start:stop]) == block:
                    open_chains.append((stop, [*chain, block]))
        return best

    def touch(self, paths: Collection[Path]) -> None:
        """Record that files were used now."""
        for path in paths:
            with suppress(OSError):
                os.utime(path)

    def remove(self, keys: Collection[str]) -> int:
        """Delete all blocks and states of these chains, and what needs them; return the freed bytes."""
        return self._delete(set(keys), self.files())

    def delete(self, files: Iterable[StoredFile]) -> int:
        """Delete these files in this order; return the freed bytes."""
        return sum(_unlink(file) for file in files)

    def clear(self) -> int:
        """Delete everything; return the freed bytes."""
        return self.delete(self._scan((_BLOCK, _STATE, _PART)))

    def prune(self, kept: Collection[str] = (), room: int = 0) -> int:
        """Delete what cannot be used any more, and the least recently used above the limit.

        Args:
            kept: keys of chains not to delete.
            room: bytes that are about to be written.

        Returns:
            The freed bytes.
        """
        freed = sum(
            _unlink(file) for file in self._scan((_PART,)) if time.time() - file.used > _ABANDONED_AFTER_S
        )
        freed += self._delete_unreachable(self.files())
        excess = self.size() + room - self.limit
        return freed + self._delete_oldest(self.files(), excess, kept) if excess > 0 else freed

    def _delete_oldest(self, files: list[StoredFile], excess: int, kept: Collection[str]) -> int:
        """Delete the least recently used of the files that no other needs, until ``excess`` bytes are gone.

        A block's file may be older than its followers, so its own time counts when they are gone only.
        """
        needs = Counter(file.needs for file in files)
        blocks = {file.key: file for file in files if not file.is_state}
        named = {file.path.name: file for file in files if file.key not in kept}
        queue = [(file.used, name) for name, file in named.items() if file.is_state or not needs[file.key]]
        heapq.heapify(queue)
        freed = 0
        while queue and excess > 0:
            file = named[heapq.heappop(queue)[1]]
            freed += _unlink(file)
            if file.path.exists():  # open elsewhere on Windows
                continue
            excess -= file.size
            needs[file.needs] -= 1
            block = blocks.get(file.needs)
            if block is not None and not needs[block.key] and block.path.name in named:
                heapq.heappush(queue, (block.used, block.path.name))
        return freed

    def _delete_unreachable(self, files: list[StoredFile]) -> int:
        """Delete blocks and states whose chain has lost a block, and files with a wrong name."""
        followers = defaultdict[str, list[str]](list)
        reached = set[str]()
        for file in files:
            if file.block is not None and file.block.is_first:
                reached.add(file.key)
            elif not file.is_state:
                followers[file.needs].append(file.key)
        open_keys = list(reached)
        while open_keys:
            found = [key for key in followers[open_keys.pop()] if key not in reached]
            reached.update(found)
            open_keys += found
        settled = time.time() - _SETTLED_AFTER_S
        return self.delete(file for file in files if file.key not in reached and file.used < settled)

    def _delete(self, keys: set[str], files: list[StoredFile]) -> int:
        """Delete the files of chains, and all chains that begin with them; return the freed bytes."""
        doomed = set(keys)
        while True:
            more = {
                file.key
                for file in files
                if file.block is not None and file.block.parent in doomed and file.key not in doomed
            }
            if not more:
                break
            doomed |= more
        return self.delete(file for file in files if file.key in doomed)

    def _scan(self, endings: tuple[str, ...]) -> Iterator[StoredFile]:
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(self.folder):
                # A pipe, which would block its reader, a link or a folder is none of ours.
                if entry.name.endswith(endings) and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        path = Path(entry.path)
                        yield StoredFile(path, _block_of(path.name), status.st_size, status.st_mtime)


def _block_of(name: str) -> Block | None:
    parts = name.split(".")
    if len(parts) == 4 and name.endswith(_BLOCK) and parts[2].isdecimal():
        block = Block(parts[0], parts[1], int(parts[2]))
        return block if block.name == name else None
    return None


def _unlink(file: StoredFile) -> int:
    try:
        file.path.unlink()
    except OSError:  # gone already, or open elsewhere on Windows
        return 0
    return file.size
