from __future__ import annotations

from pathlib import Path

import pytest

from lrqk_cli.documents import read_documents
from lrqk_cli.documents.folders import Walk
from lrqk_cli.errors import DocumentError

from .conftest import MakePdf


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
