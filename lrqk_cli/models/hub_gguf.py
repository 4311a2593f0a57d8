"""GGUF files of Hugging Face repositories: finds the file for a tag, in the cache or on the hub."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrqk_cli.errors import ModelError, OutOfMemoryError
from lrqk_cli.models.catalog import HubRepository
from lrqk_cli.models.failures import hub_errors
from lrqk_cli.models.fetch import ask_hub, cached_snapshot, download_folder
from lrqk_cli.models.progress import OnProgress, PullProgress, watching
from lrqk_cli.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from collections.abc import Iterable

# Marks files in several parts, which llama.cpp joins, and picture encoders of multimodal models.
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_ENCODER = "mmproj"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository.

    Attributes:
        tag: its quantisation as a part of its name, such as ``Q4_K_M``.
    """

    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


def cached(wanted: HubFile) -> Path | None:
    """Return the file in the hub's own cache, without asking the hub; None if it is not cached."""
    folder = cached_snapshot(wanted.repository)
    if folder is None:
        return None
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.gguf"))]
    # The repository may have a file that fits the tag better, so here the name must end with the whole tag.
    end = re.compile(rf"(?<!UD-)(?<![A-Za-z0-9]){re.escape(wanted.tag)}$", re.IGNORECASE)
    found = [name for name in _matching(names, wanted.tag) if end.search(Path(name).stem)]
    return folder / found[0] if found and not _PART.search(Path(found[0]).stem) else None


def fetch_tagged(wanted: HubFile, on_progress: OnProgress, room: int | None = None) -> Path:
    """Fetch the file into the hub's own cache; an interrupted download continues there.

    Args:
        room: the most bytes that its weights may take; None for no limit.

    Raises:
        ModelError: the repository has no such file, or it cannot be fetched.
        OutOfMemoryError: the file is larger than ``room``; nothing has been fetched.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    with hub_errors(wanted.repository), quiet_transformers():
        with suppress(EntryNotFoundError):
            ask_hub(wanted.repository, "README.md")
        files = {
            entry.path: entry.size
            for entry in huggingface_hub.HfApi().list_repo_tree(wanted.repository, recursive=True)
            if isinstance(entry, huggingface_hub.hf_api.RepoFile) and entry.path.lower().endswith(".gguf")
        }
    name = _chosen(wanted, files)
    if room is not None and files[name] > room:
        raise OutOfMemoryError(
            f"The weights of '{wanted}' take {files[name] / 2**30:.1f} GiB, and there are "
            f"{room / 2**30:.1f} GiB for them.",
            "Choose a smaller file or model, or spread the weights over CPU memory with `offload_weights`.",
        )
    return fetch_file(HubRepository(wanted.repository), name, on_progress, total=files[name])


def fetch_file(
    source: HubRepository,
    name: str,
    on_progress: OnProgress,
    local_folder: Path | None = None,
    total: int = 0,
) -> Path:
    """Fetch one file into the hub's own cache, or into ``local_folder``; continue a partial download.

    Raises:
        ModelError: the file does not exist or is gated, or the hub cannot be reached.
    """
    import huggingface_hub

    folder = download_folder(source, local_folder)

    def report(gained: int) -> None:
        on_progress(PullProgress("fetch", min(gained, total) if total else gained, total))

    with hub_errors(source.repository), quiet_transformers(), watching(folder, report):
        path = huggingface_hub.hf_hub_download(
            source.repository, name, revision=source.revision, local_dir=local_folder
        )
    return Path(path)


def _matching(names: Iterable[str], tag: str) -> list[str]:
    """Return the names that match a tag, the shortest first."""
    pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(tag)}(?![A-Za-z0-9_])", re.IGNORECASE)
    stems = {name: Path(name).stem for name in names if _ENCODER not in Path(name).name}
    found = [name for name, stem in stems.items() if pattern.search(_PART.sub("", stem))]
    return sorted(found, key=lambda name: (len(name), name))


def _chosen(wanted: HubFile, files: Iterable[str]) -> str:
    names = list(files)
    found = _matching(names, wanted.tag)
    if not found:
        listed = ", ".join(sorted(Path(name).name for name in names)[:6])
        raise ModelError(
            f"The repository '{wanted.repository}' has no GGUF file of the kind {wanted.tag}.",
            f"It has {listed}." if listed else "It has no GGUF files: leave the tag out.",
        )
    if _PART.search(Path(found[0]).stem):
        raise ModelError(
            f"'{wanted}' is in several parts, which lrqk does not join.",
            "Join them with llama-gguf-split --merge, and name the file; or choose another repository.",
        )
    return found[0]
