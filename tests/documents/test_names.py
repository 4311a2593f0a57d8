"""What is named but is no ordinary file, and names that are no text."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lrqk_cli.documents import Document, read_documents
from lrqk_cli.errors import DocumentError

from .conftest import MakePdf

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")


@pytest.mark.parametrize(
    ("url", "why", "hint"),
    [
        (
            Path("https://h.org/a.pdf?b=1&c=2"),
            "only files are read here",
            "-LO 'https://h.org/a.pdf?b=1&c=2'",
        ),
        (Path("HTTP://me:secret@h.org/a.pdf"), "only files are read here", "curl -LO http://h.org/a.pdf"),
        ("ftp://h.org/a.pdf", "lrqk fetches http and https only", "curl -LO ftp://h.org/a.pdf"),
        ("file:///home/a.pdf", "not a path", "/home/a.pdf"),
    ],
    ids=str,
)
def test_a_url_that_is_not_fetched_is_called_one(url: str | Path, why: str, hint: str) -> None:
    with pytest.raises(DocumentError, match=rf" is a URL, .*{why}\.") as caught:
        read_documents([url])
    assert hint in caught.value.hint
    assert "secret" not in caught.value.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on this system")
def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="pipe cannot be opened: not a regular file") as caught:
        read_documents([tmp_path / "pipe"])
    assert "give - for standard input" in caught.value.hint


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/stdin"])
def test_a_device_is_refused(device: str) -> None:
    if not Path(device).exists():
        pytest.skip(f"there is no {device} on this system")
    with pytest.raises(DocumentError, match="not a regular file"):
        read_documents([device])


def test_a_link_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "a.txt")
    with pytest.raises(DocumentError, match=r"a\.txt cannot be opened: too many levels"):
        read_documents([tmp_path / "a.txt"])


def test_a_name_that_is_too_long_is_an_error_like_any_other() -> None:
    with pytest.raises(DocumentError, match="cannot be opened: file name too long"):
        read_documents(["x" * 5000])


def test_a_name_with_a_nul_is_the_name_of_no_file() -> None:
    with pytest.raises(DocumentError, match="There is no file a\ufffdb"):
        read_documents(["a\0b"])


def is_text(document: Document) -> bool:
    shown = [document.title, document.text, *document.warnings, *(part.text for part in document.sections())]
    return all(part.encode("utf-8") for part in shown)


@on_linux
def test_names_that_cannot_be_decoded_become_text(tmp_path: Path, make_pdf: MakePdf) -> None:
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    named.write_text("Menu")
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xfccher"))
    folder.mkdir()
    make_pdf(["One.", ""]).rename(folder / os.fsdecode(b"\xe4.pdf"))
    (folder / os.fsdecode(b"\xe4.bin")).write_bytes(b"\0")
    documents = read_documents([named, folder])
    assert [document.title for document in documents] == ["caf\ufffd.txt", "b\ufffdcher/\ufffd.pdf"]
    empty, left_out = documents[1].warnings
    assert empty.startswith("b\ufffdcher/\ufffd.pdf: page 2 has no text; ")
    assert left_out == "Left out: \ufffd.bin is not text, or empty."
    assert all(map(is_text, documents))
    assert documents[0].path == named


@on_linux
def test_errors_about_such_names_are_text(tmp_path: Path) -> None:
    for name in (b"gone\xe9.txt", b"empty\xe9"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        if name.startswith(b"empty"):
            path.mkdir()
        with pytest.raises(DocumentError) as caught:
            read_documents([path])
        assert "\ufffd" in caught.value.message
        assert caught.value.message.encode("utf-8")


@on_linux
def test_control_characters_of_a_name_do_not_reach_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2Jb\n.txt"
    path.write_text("Alpha")
    assert read_documents([path])[0].title == "a\ufffd[2Jb\ufffd.txt"
