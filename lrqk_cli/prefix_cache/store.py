"""The folder of the prefix cache: which blocks and states are there, and which to delete.

A *block* holds what was computed for some consecutive tokens, up to the end of a segment. Its name is a hash
of these tokens and of the block before it, so a chain of blocks from a root is a prefix that was read. A
*state* holds what some settings derive from a whole prefix; its name begins with that of the prefix's last
block. Files are never changed, so processes share the folder without locks: a file is there or not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_BLOCK, _STATE, _PART = ".block", ".state", ".part"
# The first letter of a root, which no hash begins with.
_ROOT = "r"
# A part file of a process that still runs is younger.
_ABANDONED_AFTER_S = 3600.0
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
        block: the block, or the last block of the state's prefix.
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

    def clear(self) -> int:
        """Delete everything; return the freed bytes."""
        return sum(_unlink(file) for file in self._scan((_BLOCK, _STATE, _PART)))

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
        files = self.files()
        freed += self._delete_unreachable(files)
        excess = self.size() + room - self.limit
        # Of files used at the same time, the last of a chain first.
        for file in sorted(files, key=lambda file: (file.used, not file.is_state)):
            if excess <= 0:
                break
            if file.key not in kept and file.path.exists():
                deleted = self._delete({file.key}, self.files(), kept)
                excess, freed = excess - deleted, freed + deleted
        return freed

    def _delete_unreachable(self, files: list[StoredFile]) -> int:
        """Delete blocks and states whose chain has lost a block."""
        present = {file.key for file in files if not file.is_state}
        lost = {file.key for file in files if file.is_state} - present
        for file in files:
            if file.block is not None and not file.block.parent.startswith(_ROOT):
                lost |= set() if file.block.parent in present else {file.key}
        return self._delete(lost, files) if lost else 0

    def _delete(self, keys: set[str], files: list[StoredFile], kept: Collection[str] = ()) -> int:
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
        if doomed & set(kept):
            return 0
        return sum(_unlink(file) for file in files if file.key in doomed)

    def _scan(self, endings: tuple[str, ...]) -> Iterator[StoredFile]:
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(self.folder):
                if entry.name.endswith(endings):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        path = Path(entry.path)
                        yield StoredFile(path, _block_of(path.name), status.st_size, status.st_mtime)


def _block_of(name: str) -> Block | None:
    parts = name.split(".")
    if len(parts) == 4 and name.endswith(_BLOCK) and parts[2].isdecimal():
        return Block(parts[0], parts[1], int(parts[2]))
    return None


def _unlink(file: StoredFile) -> int:
    try:
        file.path.unlink()
    except OSError:  # gone already, or open elsewhere on Windows
        return 0
    return file.size
