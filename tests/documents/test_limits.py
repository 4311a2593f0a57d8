"""Files that would take hours or all memory, and what remains of the process that reads them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lrqk_cli.documents import read_documents, reader_process
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.reader_process import ReaderProcess
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError, UsageError
from lrqk_cli.memory.cpus import usable_cpus

from .conftest import SLOW, MakePage, MakePdf

_MIB = 1 << 20


def goes_on(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_a_page_that_takes_too_long_names_the_limit(make_page: MakePage) -> None:
    path = make_page(SLOW)
    assert path.stat().st_size < 100_000
    start = time.monotonic()
    with pytest.raises(
        DocumentError, match=r"^page\.pdf takes longer .* `read_timeout` .* 2 seconds\."
    ) as caught:
        read_documents([path], limits=ReadLimits(timeout=2.0))
    assert "`read_timeout`" in caught.value.hint
    assert time.monotonic() - start < 15.0
    assert children() == []


def test_a_page_that_takes_too_much_memory_names_the_limit(make_page: MakePage) -> None:
    path = make_page(b"", notes=100_000)  # 6 GB of text
    assert path.stat().st_size < 2_000_000
    with pytest.raises(
        DocumentError, match=r"^page\.pdf takes more memory .* `read_memory` allows, 300 MiB\."
    ) as caught:
        read_documents([path], limits=ReadLimits(memory=300 * _MIB))
    assert "`read_memory`" in caught.value.hint
    assert children() == []


def test_what_is_asked_for_in_one_go_hits_the_limit_too(make_page: MakePage, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    with path.open("wb") as file:
        file.truncate(8 << 30)  # a hole: it takes no room on the disk
    with pytest.raises(DocumentError, match=r"^long\.txt takes more memory"):
        read_documents([path], limits=ReadLimits(memory=200 * _MIB))


def test_running_out_of_memory_is_never_taken_for_a_broken_page(
    make_pdf: MakePdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pypdf import PageObject

    from lrqk_cli.documents import pdf_text
    from lrqk_cli.documents.pdf import read_pdf

    def fail(*_: object, **__: object) -> str:
        raise MemoryError

    path = make_pdf(["One.", "Two."])
    source = SourceFile(path, path.name, path.read_bytes())
    for owner, name in ((pdf_text, "_annotation_texts"), (PageObject, "extract_text")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(MemoryError):
                read_pdf(source, ReadOptions())


def test_memory_is_weighed_before_any_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a file whose reader grows and answers sooner than it would be looked at."""

    class Child:
        memory = property(lambda self: self)

        def __init__(self, _: int) -> None:
            self._messages: list[dict[str, object]] = [{"done": 1, "total": 1}, {"document": {}}]

        def send(self, *_: object) -> None: ...

        def receive(self, _: float) -> dict[str, object]:
            return self._messages.pop(0)

        def is_above(self, _: int) -> bool:
            return not self._messages

        def kill(self) -> None: ...

    monkeypatch.setattr(reader_process, "_Child", Child)
    monkeypatch.setattr(reader_process, "_POLL_S", 3600.0)
    path = tmp_path / "a.txt"
    with pytest.raises(DocumentError, match=r"^a\.txt takes more memory"):
        ReaderProcess(ReadLimits()).read(SourceFile(path, path.name, b""), ReadOptions())


def test_files_that_were_read_hold_no_memory(tmp_path: Path) -> None:
    """A tree of HTML is full of cycles; Python has to find those of the files before."""
    pytest.importorskip("markitdown", reason="the extra office is not installed")
    path = tmp_path / "rows.html"
    path.write_text("<table>" + "<tr><td>cell</td></tr>" * 20_000 + "</table>")
    source = SourceFile(path, path.name, b"")
    with ReaderProcess(ReadLimits()) as process:
        process.read(source, ReadOptions())
        (reader,) = children()
        first = reader.memory_info().rss
        for _ in range(4):
            process.read(source, ReadOptions())
        assert reader.memory_info().rss < first + 60 * _MIB


def test_standard_input_without_an_end_hits_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        buffer = property(lambda self: self)

        def read(self, size: int) -> bytes:
            return b"x" * size

    monkeypatch.setattr(sys, "stdin", Endless())
    with pytest.raises(DocumentError, match=r"^standard input takes more memory"):
        read_documents(["-"], limits=ReadLimits(memory=50 * _MIB))


def test_each_page_that_comes_gives_more_time(make_pdf: MakePdf) -> None:
    """Three pages, each shown for less than the limit and together for longer."""
    seen: list[float] = []

    def look(_: object) -> None:
        seen.append(time.monotonic())
        time.sleep(0.7)

    (document,) = read_documents(
        [make_pdf(["One.", "Two.", "Three."])], limits=ReadLimits(timeout=4.0), on_progress=look
    )
    assert len(document.pages) == 3
    assert seen[-1] - seen[0] > 3.0


def test_one_process_serves_all_files_and_ends_with_them(make_pdf: MakePdf, tmp_path: Path) -> None:
    first, second = make_pdf(["One."], name="1.pdf"), make_pdf(["Two."], name="2.pdf")
    seen: set[int] = set()
    read_documents([first, second], on_progress=lambda _: seen.update(child.pid for child in children()))
    assert len(seen) == 1
    assert children() == []


def test_a_reader_that_crashes_costs_its_own_file_only(make_page: MakePage, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Alpha")
    slow = make_page(SLOW)

    def kill(done: int, total: int) -> None:
        for child in children():
            child.kill()

    with ReaderProcess(ReadLimits()) as process:
        with pytest.raises(DocumentError, match=r"page\.pdf cannot be read: it made its reader crash"):
            process.read(SourceFile(slow, slow.name, b""), ReadOptions(on_page=kill))
        assert process.read(SourceFile(tmp_path / "a.txt", "a.txt", b""), ReadOptions()).text == "Alpha"


def test_usage_errors_and_warnings_come_through(make_pdf: MakePdf, tmp_path: Path) -> None:
    (warning,) = read_documents([make_pdf(["One.", ""])])[0].warnings
    assert warning.startswith("made.pdf: page 2 has no text; ")
    (tmp_path / "a.txt").write_text("Alpha")
    from lrqk_cli.documents import PageSelection

    with pytest.raises(UsageError, match=r"a\.txt has no pages"):
        read_documents([tmp_path / "a.txt"], pages=PageSelection.parse("1"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals as of a Unix system are needed")
@pytest.mark.parametrize(
    ("number", "copies"), [("SIGINT", 1), ("SIGINT", 8), ("SIGTERM", 1), ("SIGKILL", 1), ("SIGKILL", 8)]
)
def test_nothing_is_left_behind_however_reading_ends(make_page: MakePage, number: str, copies: int) -> None:
    code = (
        "import json, sys, psutil\n"
        "from lrqk_cli.documents import read_documents\n"
        "def tell(progress):\n"
        "    if progress.total and not told:\n"
        "        found = [child.pid for child in psutil.Process().children()]\n"
        "        if found:\n"
        "            told.append(1); print(json.dumps(found), flush=True)\n"
        "told = []\n"
        "read_documents(sys.argv[1:], on_progress=tell)\n"
    )
    command = [sys.executable, "-c", code, str(make_page(SLOW, copies=copies))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        (reader,) = json.loads(process.stdout.readline())
        time.sleep(1.0)
        # Several pages are read by several processes.
        readers = [psutil.Process(reader), *psutil.Process(reader).children()]
        assert len(readers) == (1 if copies == 1 or usable_cpus() == 1 else 1 + min(usable_cpus(), 2))
        start = time.monotonic()
        process.send_signal(getattr(signal, number))
        process.wait(timeout=30)
        assert time.monotonic() - start < 5.0
    deadline = time.monotonic() + 10.0
    while any(goes_on(each) for each in readers):
        assert time.monotonic() < deadline, "the process that reads goes on"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="signals as of a Unix system are needed")
def test_ctrl_c_on_a_terminal_stops_the_command_and_its_reader(make_page: MakePage) -> None:
    command = [sys.executable, "-m", "lrqk_cli", "chat", "--prompt", "x", "--file", str(make_page(SLOW))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        command_itself = psutil.Process(process.pid)
        while not (readers := command_itself.children()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(1.0)
        assert readers[0].is_running()
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - start < 5.0
    assert process.returncode == 130
    assert errors == "Interrupted.\n"
    assert not readers[0].is_running()


def test_the_process_that_reads_starts_without_torch() -> None:
    code = (
        "import sys, lrqk_cli.documents.worker\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pypdf', 'markitdown', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_working_folder_offers_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "psutil", "unicodedata", "queue"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "a.txt").write_text("Alpha")
    monkeypatch.chdir(tmp_path)
    assert read_documents(["a.txt"])[0].text == "Alpha"
    assert os.getcwd() == str(tmp_path)  # noqa: PTH109
