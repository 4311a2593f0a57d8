"""Limits of the control group of a process, and of those around it, from trees as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrqk_cli.memory.control_groups import group_folders
from lrqk_cli.memory.cpus import cpu_quota
from lrqk_cli.memory.limits import group_room

GIB = 2**30
# What the kernel says of a process in the group /batch/job, and where the files of groups are.
OWN_2 = "0::/batch/job\n"
OWN_1 = "12:pids:/\n11:memory:/batch/job\n3:cpu,cpuacct:/batch/job\n1:name=systemd:/other\n0::/other\n"
VERSIONS = pytest.mark.parametrize("version", [1, 2])
NO_LIMIT = {1: 9223372036854771712, 2: "max"}


def write(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


class Tree:
    """Control groups of one version."""

    def __init__(self, folder: Path, version: int, own: str | None = None) -> None:
        self.version = version
        self.root, self.own = folder / "cgroup", folder / "own"
        self.own.write_text(own or (OWN_1 if version == 1 else OWN_2))

    def memory(self, group: str, limit: object, used: int) -> None:
        if self.version == 1:
            limits = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}
            write(self.root / "memory" / group, {**limits, "memory.stat": "total_inactive_file 0"})
        else:
            limits = {"memory.max": limit, "memory.current": used}
            write(self.root / group, {**limits, "memory.stat": "inactive_file 0"})

    def cpus(self, group: str, quota: int | None) -> None:
        if self.version == 1:
            files = {"cpu.cfs_quota_us": -1 if quota is None else quota * 1000, "cpu.cfs_period_us": 1000}
            write(self.root / "cpu" / group, files)
        else:
            write(self.root / group, {"cpu.max": f"{'max' if quota is None else quota * 1000} 1000"})


@VERSIONS
def test_the_least_room_of_all_groups_around_a_process_counts(tmp_path: Path, version: int) -> None:
    tree = Tree(tmp_path, version)
    tree.memory("", NO_LIMIT[version], 60 * GIB)
    tree.memory("batch", NO_LIMIT[version], 50 * GIB)
    tree.memory("batch/job", 8 * GIB, 3 * GIB)
    tree.memory("batch/other", GIB, GIB)
    assert group_room(tree.root, tree.own) == 5 * GIB
    tree.memory("batch", 52 * GIB, 50 * GIB)
    assert group_room(tree.root, tree.own) == 2 * GIB


@VERSIONS
def test_the_least_quota_of_all_groups_around_a_process_counts(tmp_path: Path, version: int) -> None:
    tree = Tree(tmp_path, version)
    tree.cpus("batch", 6)
    tree.cpus("batch/job", None)
    tree.cpus("batch/other", 1)
    assert cpu_quota(tree.root, tree.own) == 6
    tree.cpus("batch/job", 2)
    assert cpu_quota(tree.root, tree.own) == 2


@pytest.mark.parametrize("own", ["0::/\n", "0::/../../elsewhere\n", "0::/not/visible\n"])
def test_in_a_container_the_root_is_its_own_group(tmp_path: Path, own: str) -> None:
    tree = Tree(tmp_path, 2, own)
    tree.memory("", 8 * GIB, 3 * GIB)
    write(tmp_path / "elsewhere", {"memory.max": GIB, "memory.current": 0, "memory.stat": "inactive_file 0"})
    assert group_room(tree.root, tree.own) == 5 * GIB


def test_groups_are_listed_from_the_innermost(tmp_path: Path) -> None:
    tree = Tree(tmp_path, 2)
    trees = [("batch/job", "batch", ""), ("memory",)]
    assert group_folders("memory", tree.root, tree.own) == [tree.root / n for part in trees for n in part]
    assert group_folders("memory", tree.root, tmp_path / "none") == [tree.root, tree.root / "memory"]
