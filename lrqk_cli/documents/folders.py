"""The files of a folder, less what .gitignore files leave out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

    Ignores = Sequence[tuple[Path, GitIgnoreSpec]]


def walk(folder: Path) -> Iterator[Path]:
    """Files below ``folder``: a folder's own files first, by name, then its folders, by name.

    Hidden files and folders, links to folders and whatever .gitignore files ignore are left out; in a git
    repository that includes the .gitignore files above ``folder``.

    Raises:
        OSError: ``folder`` itself cannot be listed.
    """
    yield from _walk(folder, _ignores_above(folder.resolve()))


def _walk(folder: Path, above: Ignores) -> Iterator[Path]:
    place = folder.resolve()
    ignores = [*above, *_ignores_of(place, place / ".gitignore")]
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        if entry.is_file() and not _is_ignored(place / entry.name, ignores, is_folder=False):
            yield Path(entry.path)
    for entry in visible:
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and not _is_ignored(place / entry.name, ignores, is_folder=True):
            try:
                yield from _walk(Path(entry.path), ignores)
            except PermissionError:
                continue


def _ignores_above(folder: Path) -> Ignores:
    """What the git repository around ``folder`` ignores; nothing if it ignores the folder itself.

    Who names an ignored folder wants it read.
    """
    root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), None)
    if root is None:
        return []
    ignores = list(_ignores_of(root, root / ".git" / "info" / "exclude"))
    steps = [place for place in (folder, *folder.parents) if place.is_relative_to(root)][::-1]
    for place, child in pairwise(steps):
        ignores += _ignores_of(place, place / ".gitignore")
        if _is_ignored(child, ignores, is_folder=True):
            return []
    return ignores


def _ignores_of(place: Path, file: Path) -> Ignores:
    from pathspec import GitIgnoreSpec

    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(place, GitIgnoreSpec.from_lines(lines))]


def _is_ignored(path: Path, ignores: Ignores, *, is_folder: bool) -> bool:
    """What the deepest file with an opinion says: it overrules those above it."""
    for place, spec in reversed(ignores):
        name = path.relative_to(place).as_posix() + ("/" if is_folder else "")
        verdict = spec.check_file(name).include
        if verdict is not None:
            return verdict
    return False
