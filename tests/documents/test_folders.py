from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lrqk_cli.documents import read_documents
from lrqk_cli.documents.folders import Walk
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.errors import DocumentError

from .conftest import SLOW, MakePage, MakePdf


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in Walk(folder)]


def test_files_come_before_folders_each_by_name(tmp_path: Path) -> None:
    tree(tmp_path, {"z.txt": "z", "b/c.txt": "c", "b/a/d.txt": "d", "a.txt": "a"})
    assert names(tmp_path) == ["a.txt", "z.txt", "b/c.txt", "b/a/d.txt"]


def test_gitignore_files_are_honoured_and_deeper_ones_overrule(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            ".gitignore": "*.log\nbuild/\n/only-here.txt\n",
            "keep.txt": "k",
            "a.log": "l",
            "only-here.txt": "o",
            "build/out.txt": "o",
            "sub/.gitignore": "!important.log\nlocal.txt\n",
            "sub/important.log": "i",
            "sub/other.log": "o",
            "sub/local.txt": "l",
            "sub/only-here.txt": "o",
            "sub/deep/local.txt": "l",
            "sub/build/out.txt": "o",
        },
    )
    assert names(tmp_path) == ["keep.txt", "sub/important.log", "sub/only-here.txt"]


def test_hidden_files_and_the_git_folder_are_left_out(tmp_path: Path) -> None:
    tree(tmp_path, {".git/config": "c", ".env": "SECRET=1", ".venv/lib.py": "x", "a.txt": "a"})
    assert names(tmp_path) == ["a.txt"]


def test_the_repository_above_counts_but_nothing_above_the_repository(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            ".gitignore": "*.txt\n",
            "repo/.git/info/exclude": "excluded.md\n",
            "repo/.gitignore": "*.log\n",
            "repo/docs/a.txt": "a",
            "repo/docs/a.log": "l",
            "repo/docs/excluded.md": "e",
        },
    )
    assert names(tmp_path / "repo" / "docs") == ["a.txt"]


def test_an_ignored_folder_is_read_when_it_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {".git/HEAD": "h", ".gitignore": "out/\n", "out/part/report.txt": "r"})
    assert names(tmp_path) == []
    assert names(tmp_path / "out") == ["part/report.txt"]
    assert names(tmp_path / "out" / "part") == ["report.txt"]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    tree(tmp_path, {"a.txt": "a"})
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_gives_text_and_pdf_files_and_warns_of_the_rest(tmp_path: Path, make_pdf: MakePdf) -> None:
    folder = tree(tmp_path / "papers", {"notes.md": "# Notes", "src/main.py": "print(1)"})
    (folder / "logo.png").write_bytes(b"\x89PNG\0\0")
    make_pdf(["One."], name="papers/a.pdf")
    make_pdf(["", ""], name="papers/scan.pdf")
    make_pdf(["x"], name="papers/locked.pdf", user="u", owner="o")
    documents = read_documents([folder])
    titles = [document.title for document in documents]
    assert titles == ["papers/a.pdf", "papers/notes.md", "papers/src/main.py"]
    warnings = documents[0].warnings
    assert len(warnings) == 3
    for name in ("logo.png", "papers/scan.pdf", "papers/locked.pdf"):
        assert sum(name in warning for warning in warnings) == 1


@pytest.mark.parametrize("files", [{}, {".hidden": "x"}, {".gitignore": "*", "a.txt": "x"}])
def test_a_folder_with_nothing_to_read_is_an_error(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(DocumentError, match="has nothing to read"):
        read_documents([tree(tmp_path, files)])


def test_a_folder_of_which_nothing_can_be_read_says_why(tmp_path: Path, make_pdf: MakePdf) -> None:
    make_pdf([""], name="scans/a.pdf")
    with pytest.raises(DocumentError, match=r"Nothing in the folder .* scans/a\.pdf has no text"):
        read_documents([tmp_path / "scans"])


def left_out(folder: Path) -> list[str]:
    walk = Walk(folder)
    for _ in walk:
        pass
    return walk.left_out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on this system")
def test_a_fifo_is_named_and_not_waited_for(tmp_path: Path) -> None:
    folder = tree(tmp_path / "papers", {"a.txt": "a"})
    os.mkfifo(folder / ".gitignore")
    os.mkfifo(folder / "pipe.txt")
    (document,) = read_documents([folder])
    assert document.warnings == (
        "Left out: papers/.gitignore cannot be read: not a regular file.",
        "Left out: papers/pipe.txt is not a regular file.",
    )


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero on this system")
def test_a_gitignore_without_an_end_is_named(tmp_path: Path) -> None:
    folder = tree(tmp_path / "papers", {"a.txt": "a"})
    (folder / ".gitignore").symlink_to("/dev/zero")
    (document,) = read_documents([folder])
    assert document.warnings == ("Left out: papers/.gitignore cannot be read: not a regular file.",)


def test_links_that_lead_to_themselves_or_nowhere_are_named(tmp_path: Path) -> None:
    folder = tree(tmp_path / "papers", {"z.txt": "z"})
    (folder / "a.txt").symlink_to(folder / "b.txt")
    (folder / "b.txt").symlink_to(folder / "a.txt")
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    (folder / ".gitignore").symlink_to(folder / ".gitignore")
    (document,) = read_documents([folder])
    assert document.text == "z"
    named = [warning.split()[2] for warning in document.warnings]
    assert named == ["papers/.gitignore", "papers/a.txt", "papers/b.txt", "papers/gone.txt"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc on this system")
def test_links_into_proc_count_as_empty(tmp_path: Path) -> None:
    folder = tree(tmp_path / "papers", {"a.txt": "a"})
    for name in ("status", "environ", "mem", "pagemap"):
        (folder / f"{name}.txt").symlink_to(f"/proc/self/{name}")
    (folder / "fd").symlink_to("/proc/self/fd")
    (document,) = read_documents([folder])
    assert document.text == "a"
    assert document.warnings == ("Left out: 4 files are not text, or empty.",)


@contextmanager
def nested(folder: Path, name: str, depth: int) -> Iterator[None]:
    """Folders in folders; the whole path may be too long for one call, also for those that clean up."""
    start = Path.cwd()
    os.chdir(folder)
    for _ in range(depth):
        os.mkdir(name)  # noqa: PTH102
        os.chdir(name)
    deepest = os.open(".", os.O_RDONLY)
    os.chdir(start)
    try:
        yield
    finally:
        os.fchdir(deepest)
        os.close(deepest)
        for _ in range(depth):
            os.chdir("..")
            os.rmdir(name)  # noqa: PTH106
        os.chdir(start)


@pytest.mark.skipif(not hasattr(os, "fchdir"), reason="the system has no fchdir")
def test_folders_may_be_nested_deeper_than_calls(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with nested(tmp_path, "d", 1500):
        (document,) = read_documents([tmp_path])
    assert document.warnings == ()


@pytest.mark.skipif(not hasattr(os, "fchdir"), reason="the system has no fchdir")
def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with nested(tmp_path, "d" * 200, 25):
        (document,) = read_documents([tmp_path])
    assert document.text == "a"
    assert document.warnings
    assert all(warning.endswith(": file name too long.") for warning in document.warnings)


def test_a_long_gitignore_counts_up_to_a_limit(tmp_path: Path) -> None:
    patterns = [f"pattern-{number}.txt" for number in range(50_000)]
    folder = tree(tmp_path / "papers", {".gitignore": "\n".join(patterns), "a.txt": "a"})
    for number in (0, 49_999):
        (folder / patterns[number]).write_text("x")
    documents = read_documents([folder])
    assert [document.title for document in documents] == ["papers/a.txt", "papers/pattern-49999.txt"]
    assert documents[0].warnings == ("Left out: papers/.gitignore beyond its first 64 KiB.",)


def test_a_pattern_that_git_rejects_is_named_and_the_others_count(tmp_path: Path) -> None:
    folder = tree(tmp_path / "papers", {".gitignore": "!\n*.log\n[z-a]\n", "a.txt": "a", "b.log": "b"})
    assert names(folder) == ["a.txt"]
    assert left_out(folder) == [
        "the pattern '!' of papers/.gitignore, which means nothing.",
        "the pattern '[z-a]' of papers/.gitignore, which means nothing.",
    ]


def test_a_pattern_that_is_never_done_ends_at_the_limit(tmp_path: Path) -> None:
    folder = tree(tmp_path / "papers", {".gitignore": "*a" * 30 + "*b\n", "a" * 200 + ".txt": "a"})
    with pytest.raises(DocumentError, match=r"The folder .*papers takes longer .* `read_timeout`"):
        read_documents([folder], limits=ReadLimits(timeout=2.0))


def test_a_file_of_a_folder_that_hits_a_limit_does_not_cost_the_others(
    tmp_path: Path, make_page: MakePage
) -> None:
    folder = tree(tmp_path / "papers", {"a.txt": "a", "z.txt": "z"})
    make_page(SLOW).rename(folder / "m.pdf")
    documents = read_documents([folder], limits=ReadLimits(timeout=2.0))
    assert [document.text for document in documents] == ["a", "z"]
    (warning,) = documents[0].warnings
    assert warning.startswith("Left out: papers/m.pdf takes longer to read than `read_timeout` allows")
