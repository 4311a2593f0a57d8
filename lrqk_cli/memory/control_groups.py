"""The control groups of this process: Linux limits what a group may take with all groups within it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def group_folders(controller: str, root: Path | None = None, own: Path | None = None) -> list[Path]:
    """Return the folders of the groups that this process is in, each ahead of those around it.

    A container often sees no more than its own group, as the root. So a folder may not exist.

    Args:
        controller: such as ``memory``. Version 1 has a tree for each, version 2 one for all; a system may
            have both, and the files of a folder tell which it is.
        root: where the groups are mounted; None for the usual place.
        own: the kernel's list of the groups of this process; None for the usual one.
    """
    paths = {"": "/", controller: "/"}
    try:
        lines = (own or _OWN).read_text(errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, names, path = line.split(":", 2)
        paths.update((name, path) for name in names.split(",") if name in paths)
    folders = []
    for name, path in paths.items():
        tree, parts = (root or _ROOT) / name, PurePosixPath(path).parts[1:]
        # A group outside the part of the tree that is visible here has a path that begins with "..".
        depth = 0 if ".." in parts else len(parts)
        folders += [tree.joinpath(*parts[:length]) for length in range(depth, -1, -1)]
    return folders
