"""Pages that several processes read: the same texts in the same order, and every failure."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from pypdf import PdfReader

from lrqk_cli.documents import shares
from lrqk_cli.documents.pdf import read_pdf
from lrqk_cli.documents.shares import ShareLostError, read_pages
from lrqk_cli.documents.source import ReadOptions, SourceFile, no_progress

from .conftest import MakePdf

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")


@pytest.fixture(params=[2, 3, 8])
def cpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(shares, "usable_cpus", lambda: request.param)
    count: int = request.param
    return count


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 50, 5000])
def test_all_pages_come_in_their_order(cpus: int, count: int) -> None:
    numbers = [3 * number + 1 for number in range(count)]
    told: list[tuple[int, int]] = []

    def read(number: int) -> str | None:
        if number % 5 == 0:
            return None
        # The first ones are longer than what a pipe holds.
        return f"{number} ü \n" * (20_000 if number < 150 else 1) + str(os.getpid())

    found = read_pages(read, numbers, lambda *done: told.append(done))
    readers = set()
    for number, text in zip(numbers, found, strict=True):
        if number % 5 == 0:
            assert text is None
        else:
            assert text is not None
            assert text.startswith(f"{number} ü \n" * (20_000 if number < 150 else 1))
            readers.add(text.rpartition("\n")[2])
    # A few pages are not worth a process.
    assert len(readers) <= max(1, min(cpus, count // 4))
    assert (str(os.getpid()) in readers) is (0 < count < 8)
    assert told[-1] == (count, count)
    assert told == sorted(told)
    assert [done for done, _ in told].count(count) == 1


def _raise_memory_error(_: int) -> str:
    raise MemoryError


def _die(_: int) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


@pytest.mark.parametrize(
    ("fail", "error"),
    [(_raise_memory_error, MemoryError), (_die, ShareLostError), (lambda _: 1 / 0, ShareLostError)],
)
def test_a_process_that_fails_is_an_error(
    cpus: int, fail: Callable[[int], str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        read_pages(lambda number: fail(number) if number == 9 else "text", range(16), no_progress)
    for _ in range(cpus):
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


@pytest.mark.parametrize("begun", [0, 1])
def test_where_processes_cannot_begin_the_others_read_all_pages(
    begun: int, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, forks = os.fork, list[int]()

    def fork_some() -> int:
        if len(forks) == begun:
            raise BlockingIOError
        forks.append(0)
        return fork()

    monkeypatch.setattr(os, "fork", fork_some)
    opened = psutil.Process().num_fds()
    assert read_pages(lambda number: str(number + 1), range(50), no_progress) == [
        str(number) for number in range(1, 51)
    ]
    assert len(forks) == begun
    assert psutil.Process().num_fds() == opened


@pytest.mark.parametrize("user", [None, "secret"])
def test_a_file_reads_the_same_in_any_number_of_processes(
    make_pdf: MakePdf, user: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_pdf([f"Page {number}." if number % 4 else "" for number in range(17)], user=user)
    source = SourceFile(path, path.name, path.read_bytes())
    found = []
    for count in (1, 2, 4):
        monkeypatch.setattr(shares, "usable_cpus", lambda count=count: count)
        found.append(read_pdf(source, ReadOptions(password=user)))
    assert found[0] == found[1] == found[2]
    assert len(found[0].pages) == len(PdfReader(path, password=user).pages) == 17


def test_a_real_book_reads_the_same(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared_data / "pdfs" / "GeoBase_NHNC1_Data_Model_UML_EN.pdf"
    source = SourceFile(path, path.name, path.read_bytes())
    found = []
    for count in (1, 3):
        monkeypatch.setattr(shares, "usable_cpus", lambda count=count: count)
        found.append(read_pdf(source, ReadOptions()))
    assert found[0] == found[1]
