"""The facts about the machine and the software that a reader needs to judge figures."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import lrqk_cli
from lrqk_cli.bench.report import Facts
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.memory.machine import driver_version
from lrqk_cli.memory.managed import has_managed
from lrqk_cli.upstream import installed_version

if TYPE_CHECKING:
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.shapes import RandomModel

_SECONDS = 10  # for git to answer


def environment(loaded: LoadedModel | RandomModel, model: str) -> Facts:
    """Return the facts by name; None for those that do not apply, such as the driver of a CPU.

    ``weights`` is the form of packed weights, or the type of plain ones.
    """
    device, dtype, packed = loaded.device, loaded.dtype, loaded.spec.packed
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine()
    return {
        "lrqk": lrqk_cli.__version__,
        "git_commit": git_commit(Path(lrqk_cli.__file__).parent),
        "sources": digest(Path(lrqk_cli.__file__).parent),
        "model": model,
        "device": name,
        "device_type": device.type,
        "dtype": dtype_name(dtype),
        "weights": dtype_name(dtype) if packed is None else packed.form,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": installed_version("transformers"),
        "triton": installed_version("triton"),
        "flash_linear_attention": installed_version("flash-linear-attention"),
        "cuda": torch.version.cuda if on_gpu else None,
        "driver": driver_version() if on_gpu else None,
        "managed_memory": has_managed(device) if on_gpu else None,
        "platform": platform.platform(),
    }


def digest(package: Path) -> str:
    """Return twelve hex digits that identify the state of a package, also without git.

    They begin the SHA-256 of the names and contents of all its files, in the order of the names.
    """
    total = hashlib.sha256()
    for file in sorted(path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(package).as_posix()} {content}\n".encode())
    return total.hexdigest()[:12]


def git_commit(package: Path) -> str | None:
    """Return the commit of a package's checkout, with ``+`` if it is changed; None if it is installed."""
    checkout = package.parent
    # An installed package may lie inside somebody else's repository.
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    changed = _git(checkout, "status", "--porcelain", "--", str(package))
    return commit + ("+" if changed else "")


def _git(checkout: Path, *arguments: str) -> str | None:
    """Return the output of git; None if git is missing or fails."""
    command = ["git", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
