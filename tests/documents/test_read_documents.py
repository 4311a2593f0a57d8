from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lrqk_cli.documents import ReadProgress, read_documents
from lrqk_cli.documents.files import load
from lrqk_cli.errors import DocumentError

from .conftest import MakePdf


def pipe_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    pipe_in(monkeypatch, "Grüße".encode(encoding))
    (document,) = read_documents(["-"])
    assert (str(document.path), document.title, document.text) == ("-", "standard input", "Grüße")


def test_a_pdf_from_standard_input_is_recognised(monkeypatch: pytest.MonkeyPatch, make_pdf: MakePdf) -> None:
    pipe_in(monkeypatch, make_pdf(["One.", "Two."]).read_bytes())
    (document,) = read_documents(["-"])
    assert document.page_count == 2


def test_nothing_on_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, b"")
    with pytest.raises(DocumentError, match="standard input is empty"):
        read_documents(["-"])


def test_a_pdf_is_told_by_its_content_not_its_name(make_pdf: MakePdf) -> None:
    assert read_documents([make_pdf(["One."], name="report.txt")])[0].page_count == 1


def test_documents_come_in_the_order_given_and_no_file_twice(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    paths = [tmp_path / "b.txt", tmp_path / "a.txt", tmp_path / "." / "b.txt", tmp_path]
    assert [document.title for document in read_documents(paths)] == ["b.txt", "a.txt"]


def test_files_of_one_name_get_titles_that_tell_them_apart(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plan.txt").write_text(folder)
    documents = read_documents([tmp_path / "old" / "plan.txt", tmp_path / "new" / "plan.txt"])
    assert [Path(document.title).parent.name for document in documents] == ["old", "new"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no file .*gone\.pdf") as caught:
        read_documents([tmp_path / "gone.pdf"])
    assert "Check the path" in caught.value.hint
    assert "`prompt`" in caught.value.hint


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(DocumentError, match=r"secret\.txt cannot be opened: permission denied"):
        read_documents([path])


def test_a_refused_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x")

    def refuse(_: Path, __: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DocumentError, match=r"secret\.txt cannot be opened: permission denied"):
        load(path, path.name)


def test_progress_tells_files_and_pages(tmp_path: Path, make_pdf: MakePdf) -> None:
    (tmp_path / "a.txt").write_text("Alpha")
    reports: list[ReadProgress] = []
    read_documents([tmp_path / "a.txt", make_pdf(["One.", "Two."])], on_progress=reports.append)
    assert ReadProgress("a.txt", 1, 2, 1, 1) in reports
    assert ReadProgress("made.pdf", 2, 2, 1, 2) in reports
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_importing_the_package_imports_no_reader() -> None:
    heavy = "{'pypdf', 'markitdown', 'pathspec', 'torch', 'transformers'}"
    code = f"import sys, lrqk_cli.documents; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
