"""Documents behind URLs, from a real server."""

from __future__ import annotations

import gzip
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from document_server import DocumentServer, Served

from lrqk_cli.documents import Document, ReadProgress, read_documents
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.locations import DocumentUrl, locate, split_variable
from lrqk_cli.errors import DocumentError

REPORT = Path(__file__).parents[2] / "docs" / "samples" / "report.pdf"
PAGE = "<html><head><title>x</title></head><body><h1>Größe</h1><p>4 km</p></body></html>"
SMALL = ReadLimits(fetch_size=100_000)


@pytest.fixture
def server() -> Iterator[DocumentServer]:
    with DocumentServer().running() as running:
        yield running


def read(url: str) -> Document:
    (document,) = read_documents([url])
    return document


def test_a_pdf_is_read_as_the_same_file_is(server: DocumentServer) -> None:
    url = server.put("/papers/report.pdf", REPORT.read_bytes(), "application/pdf")
    progress: list[ReadProgress] = []
    fetched, local = read_documents([url, REPORT], on_progress=progress.append)
    assert fetched.pages == local.pages
    assert (str(fetched.path), fetched.title, local.title) == (url, url, str(REPORT))
    size = REPORT.stat().st_size
    assert ReadProgress(url, 1, 2, size, size, "fetch") in progress
    fractions = [each.fraction for each in progress if each.stage == "fetch"]
    assert fractions == sorted(fractions)
    assert ReadProgress(url, 2, 2, 1000, 0, "fetch").fraction == 0.5


def test_type_and_encoding_are_those_that_the_server_declares(server: DocumentServer) -> None:
    cases = [
        # The declared type, then the name, then the content.
        ("/a.txt", "text/html; charset=latin-1", PAGE.encode("latin-1"), "# Größe\n\n4 km"),
        ("/a.html", "application/octet-stream", b"<p>4 <b>km</b></p>", "4 **km**"),
        ("/", None, PAGE.encode(), "# Größe\n\n4 km"),
        ("/1", "text/plain; charset=iso-8859-2", "Łódź".encode("iso-8859-2"), "Łódź"),
        ("/2", "text/plain; charset=ISO-8859-1", "„4 €“".encode("cp1252"), "„4 €“"),
        ("/3", "text/plain; charset=rot13", "Größe".encode(), "Größe"),
        ("/4", "text/plain; charset=utf-8", "Größe".encode("utf-16"), "Größe"),
    ]
    documents = read_documents([server.put(path, body, kind) for path, kind, body, _ in cases])
    assert [document.text for document in documents] == [text for *_, text in cases]
    assert not any(document.warnings for document in documents)


def test_titles_are_names_and_tell_addresses_apart(server: DocumentServer) -> None:
    urls = [server.put(path, b"Alpha") for path in ("/a/gr%C3%B6%C3%9Fe.txt", "/", "/b/x.txt", "/c/x.txt")]
    documents = read_documents([*urls, urls[0] + "#top"])
    assert [document.title for document in documents] == ["größe.txt", "127.0.0.1", *urls[2:]]


def test_a_server_gets_no_cookie_and_no_password_of_others(
    server: DocumentServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.put("/there", b"Alpha")
    cookie = {"Set-Cookie": "id=1; Path=/"}
    assert read(server.leads("/here", "/there", **cookie)).text == "Alpha"
    assert [path for path, _ in server.asked] == ["/here", "/there"]
    assert not any({"Cookie", "Authorization"} & headers.keys() for _, headers in server.asked)
    assert server.asked[0][1]["User-Agent"].startswith("lrqk/")


def test_a_password_is_sent_to_its_server_and_shown_nowhere(server: DocumentServer) -> None:
    url = server.put("/a.txt", b"Alpha").replace("//", "//me:secret@")
    document = read(f"{url}?token=hidden")
    assert server.asked[0][1]["Authorization"].startswith("Basic ")
    assert server.asked[0][0] == "/a.txt?token=hidden"
    assert "secret" not in f"{document.path}{document.title}"
    with pytest.raises(DocumentError) as caught:
        read(f"{url}.gone?token=hidden")
    shown = caught.value.message + caught.value.hint
    assert "secret" not in shown
    assert "hidden" not in shown


def test_a_redirect_decides_the_type_where_nothing_else_does(server: DocumentServer) -> None:
    server.put("/b/page.rtf", b"x", "application/octet-stream")
    with pytest.raises(DocumentError, match=r"download cannot be read: lrqk has no reader for \.rtf files"):
        read(server.leads("/download", "b/page.rtf"))


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_a_redirect_out_of_the_web_is_not_followed(server: DocumentServer, where: str) -> None:
    with pytest.raises(DocumentError, match=r"/here leads to an address that is not of http or https\."):
        read(server.leads("/here", where))


def test_redirects_in_a_circle_end(server: DocumentServer) -> None:
    with pytest.raises(DocumentError, match=r"too many redirects"):
        read(server.leads("/here", "/here"))
    assert len(server.asked) == 11


def endless(write: Callable[[bytes], object]) -> None:
    for _ in itertools.count():
        write(b"x" * 1000)


def dripping(write: Callable[[bytes], object]) -> None:
    for _ in itertools.count():
        write(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize(
    "served",
    [
        Served(b"", headers={"Content-Length": "200000"}, declares_length=False),
        Served(endless),
        Served(gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"}),
    ],
    ids=["declared", "undeclared", "compressed"],
)
def test_what_is_too_large_is_not_read_to_its_end(server: DocumentServer, served: Served) -> None:
    server.files["/a"] = served
    with pytest.raises(DocumentError, match=r"/a is larger than `fetch_size` allows, 97\.7 KiB\.") as caught:
        read_documents([server.url("/a")], limits=SMALL)
    assert "`fetch_size`" in caught.value.hint


def test_a_slow_server_is_left_also_if_something_comes(server: DocumentServer) -> None:
    server.files["/a"] = Served(dripping)
    began = time.monotonic()
    with pytest.raises(DocumentError, match=r"/a takes longer to fetch than `read_timeout` allows, 0\.5 sec"):
        read_documents([server.url("/a")], limits=ReadLimits(timeout=0.5))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (Served(status=404), "There is no document at .*/a \\(status 404\\)"),
        (Served(status=403), "The server does not give .*/a to lrqk \\(status 403\\)"),
        (Served(status=503), "The server failed to send .*/a \\(status 503\\)"),
        (Served(status=302), "The server failed to send .*/a \\(status 302\\)"),
        (Served(b"\x89PNG", "image/png"), "/a has the type image/png, which has no text"),
        (Served(b"x", headers={"Content-Encoding": "gzip, br"}), "compressed in a way"),
        (Served(b"x" * 20, headers={"Content-Encoding": "gzip"}), "The connection broke before all of"),
        (Served(b"\0\1\2", "application/octet-stream"), "a is not a text file"),
        (Served(b"", "text/plain"), "a is empty"),
        (Served(b"x", headers={"Content-Length": "9"}, declares_length=False), "The connection broke before"),
    ],
    ids=lambda each: "" if isinstance(each, str) else str(each.status),
)
def test_what_is_no_document_is_named(server: DocumentServer, served: Served, message: str) -> None:
    server.files["/a"] = served
    with pytest.raises(DocumentError, match=message):
        read(server.url("/a"))


def test_servers_that_cannot_be_reached_are_named(server: DocumentServer) -> None:
    with pytest.raises(DocumentError, match=r"nowhere\.invalid/a cannot be fetched: there is no such host"):
        read("http://nowhere.invalid/a")
    with pytest.raises(DocumentError, match="cannot be fetched: the connection is refused"):
        read("http://127.0.0.1:9/a")
    with pytest.raises(DocumentError, match="the certificate or the encryption is not valid"):
        read(server.url("/a").replace("http:", "https:"))


@pytest.mark.parametrize(
    "url", ["http://", "https:///a.pdf", "http://[1/a", "http://h:99999/a", "http://h:0/a"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(DocumentError, match="is followed by no address"):
        read(url)


def test_a_path_is_never_fetched(server: DocumentServer) -> None:
    with pytest.raises(DocumentError, match="only files are read here"):
        read_documents([Path(server.put("/a.txt", b"Alpha"))])
    assert server.asked == []


def test_a_variable_may_name_urls_and_paths() -> None:
    entries = ["/a.txt", "http://me:pw@127.0.0.1:8080/x", "b.pdf", "HTTPS://example.org/y?z#t"]
    assert list(split_variable(":".join(entries), ":")) == entries
    assert list(split_variable("C:\\a.txt;http://h:80/x", ";")) == ["C:\\a.txt", "http://h:80/x"]
    assert locate("https://h/x") == DocumentUrl("https://h/x")
