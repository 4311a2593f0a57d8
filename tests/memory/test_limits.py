"""The host memory that a process can take: the least of what the machine, its group and itself may have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lrqk_cli.memory import limits

resource = pytest.importorskip("resource", reason="needs a Unix system")

GIB = 2**30
VERSION_2 = {
    "memory.max": f"{8 * GIB}",
    "memory.current": f"{3 * GIB}",
    "memory.stat": f"inactive_file {GIB}",
}
VERSION_1 = {
    "memory/memory.limit_in_bytes": f"{8 * GIB}",
    "memory/memory.usage_in_bytes": f"{3 * GIB}",
    "memory/memory.stat": f"cache 7\ntotal_inactive_file {GIB}\n",
}


def group(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


@pytest.mark.parametrize("files", [VERSION_2, VERSION_1], ids=["2", "1"])
def test_files_in_memory_do_not_count_against_a_control_group(tmp_path: Path, files: dict[str, str]) -> None:
    assert limits.group_room(group(tmp_path, files)) == 6 * GIB


def test_without_a_limit_or_a_group_there_is_none(tmp_path: Path) -> None:
    assert limits.group_room(tmp_path) is None
    assert limits.group_room(group(tmp_path, {**VERSION_2, "memory.max": "max"})) is None


def test_the_least_of_all_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {"machine": 16 * GIB, "group": None, "process": None}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=rooms["machine"]))
    monkeypatch.setattr(limits, "group_room", lambda: rooms["group"])
    monkeypatch.setattr(limits, "process_room", lambda _: rooms["process"])
    assert limits.free_host_bytes() == 16 * GIB
    rooms["group"] = 6 * GIB
    assert limits.free_host_bytes() == 6 * GIB
    rooms["process"] = 5 * GIB
    assert limits.free_host_bytes() == 5 * GIB
    rooms["process"] = -1
    assert limits.free_host_bytes() == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_what_a_process_has_counts_against_its_own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {resource.RLIMIT_AS: resource.RLIM_INFINITY, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (ends[kind], resource.RLIM_INFINITY))
    assert limits.process_room() is None
    used = psutil.Process().memory_info()
    ends[resource.RLIMIT_DATA] = used.data + 4 * GIB
    assert 3 * GIB < limits.process_room(keeps_libraries=True) < limits.process_room() < 4.1 * GIB
    ends[resource.RLIMIT_AS] = used.vms + 2 * GIB
    assert GIB < limits.process_room(keeps_libraries=True) < limits.process_room() < 2.1 * GIB
