"""Lists the files of a folder, except those that .gitignore files exclude."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.documents.files import open_regular
from lrqk_cli.documents.normalise import shown_name
from lrqk_cli.system_errors import reason_of

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

    Ignores = Sequence[tuple[Path, GitIgnoreSpec]]

# Larger than real .gitignore files; bounds the work, as every file is compared with every pattern.
_GITIGNORE_BYTES = 64 << 10


@dataclass
class Walk:
    """The files below a folder: a folder's own files first, by name, then its folders, by name.

    Hidden files and folders, links to folders and ignored files are left out; in a git repository the
    .gitignore files above ``folder`` count too.

    Attributes:
        folder: the folder to walk.
        root: the same folder with links resolved.
        left_out: one plain sentence for each file or folder that cannot be read; grows during the walk.
    """

    folder: Path
    root: Path = field(init=False)
    left_out: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.root = Path(os.path.realpath(self.folder))

    def __iter__(self) -> Iterator[Path]:
        """Go through the files.

        Raises:
            OSError: ``folder`` itself cannot be listed.
        """
        # A loop, because folders may be nested deeper than Python's recursion limit.
        waiting = [(self.root, self._ignores_above(self.root))]
        while waiting:
            place, above = waiting.pop()
            try:
                with os.scandir(place) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                if place == self.root:
                    raise
                self._leave_out(place, f"cannot be listed: {reason_of(error)}")
                continue
            ignores = [*above, *self._ignores_of(place, place / ".gitignore")]
            folders = []
            for entry in entries:
                path = place / entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.name.startswith(".") or _is_ignored(path, ignores, is_folder=is_folder):
                    continue
                if is_folder:
                    folders.append((path, ignores))
                elif self._is_file(entry, path):
                    yield self.folder / path.relative_to(self.root)
            waiting += reversed(folders)

    def title(self, path: Path) -> str:
        """The name of a file in prompts and messages: its path from the folder's own name on."""
        return shown_name((Path(self.root.name) / path.relative_to(self.folder)).as_posix())

    def _name(self, path: Path) -> str:
        if path.is_relative_to(self.root):
            return self.title(self.folder / path.relative_to(self.root))
        return shown_name(path)

    def _leave_out(self, path: Path, why: str) -> None:
        self.left_out.append(f"{self._name(path)} {why}.")

    def _is_file(self, entry: os.DirEntry[str], path: Path) -> bool:
        try:
            mode = entry.stat().st_mode
        except OSError as error:  # a link that leads nowhere, or to itself
            self._leave_out(path, f"cannot be opened: {reason_of(error)}")
            return False
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            self._leave_out(path, "is not a regular file")
        return stat.S_ISREG(mode)

    def _ignores_above(self, folder: Path) -> Ignores:
        """The patterns of the git repository around ``folder``; none if they ignore the folder itself.

        A user who names an ignored folder wants it read.
        """
        root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), None)
        if root is None:
            return []
        ignores = list(self._ignores_of(root, root / ".git" / "info" / "exclude"))
        steps = [place for place in (folder, *folder.parents) if place.is_relative_to(root)][::-1]
        for place, child in pairwise(steps):
            ignores += self._ignores_of(place, place / ".gitignore")
            if _is_ignored(child, ignores, is_folder=True):
                return []
        return ignores

    def _ignores_of(self, place: Path, file: Path) -> Ignores:
        try:
            with open_regular(file) as opened:
                data = opened.read(_GITIGNORE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._leave_out(file, f"cannot be read: {reason_of(error)}")
            return []
        lines = data[:_GITIGNORE_BYTES].decode("utf-8", "replace").splitlines()
        if len(data) > _GITIGNORE_BYTES:
            lines.pop()  # it may be half a line
            self._leave_out(file, f"beyond its first {_GITIGNORE_BYTES >> 10} KiB")
        return [(place, self._patterns(file, lines))]

    def _patterns(self, file: Path, lines: Sequence[str]) -> GitIgnoreSpec:
        from pathspec import GitIgnoreSpec

        # Git skips invalid patterns too.
        patterns: list[Any] = []
        for line in lines:
            try:
                patterns += GitIgnoreSpec.from_lines([line]).patterns
            except (ValueError, re.error):
                what = f"the pattern {shown_name(line)[:40]!r} of {self._name(file)}, which means nothing."
                self.left_out.append(what)
        return GitIgnoreSpec(patterns)


def _is_ignored(path: Path, ignores: Ignores, *, is_folder: bool) -> bool:
    """Whether a path is ignored: the deepest .gitignore file with a matching pattern decides."""
    for place, spec in reversed(ignores):
        name = path.relative_to(place).as_posix() + ("/" if is_folder else "")
        verdict = spec.check_file(name).include
        if verdict is not None:
            return verdict
    return False
