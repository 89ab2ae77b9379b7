"""Pictures from a local web server that behaves badly, from streams and from standard input."""

import http.server
import io
import sys
import threading
import time

import pytest
from PIL import Image

from diffedit_core import web
from diffedit_core.images import load_image, load_mask, save_atomically, stem
from diffedit_core.writing import check_writable, write_stream
from tests.test_images import picture, refused, same

PICTURE = picture(5, 6, 8)


def png(image=PICTURE):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Each path is one kind of answer."""

    def do_GET(self):
        body, kind, length = png(), "image/png", None
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header(
                "Location",
                {"good": "/good.png", "file": "file:///etc/passwd"}.get(self.path[4:], "/to/loop"),
            )
            self.end_headers()
            return
        if self.path == "/page":
            body, kind = b"<html>", "text/html; charset=utf-8"
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/cut":
            length = len(body) + 9
        if self.path == "/large":
            length = 10**9
        if self.path == "/broken":
            body = body[:60]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if self.path != "/endless":
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        try:
            if self.path == "/slow":
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            elif self.path == "/endless":
                for _ in range(1000):
                    self.wfile.write(bytes(1 << 16))
            else:
                self.wfile.write(body)
        except OSError:  # the client went away
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


@pytest.mark.parametrize("path", ["good.png", "to/good"])
def test_a_picture_is_loaded(path, server):
    assert same(load_image(f"{server}/{path}"), PICTURE)


def test_a_mask_is_loaded(server):
    assert load_mask(f"{server}/good.png", PICTURE.size).shape == (6, 8)


@pytest.mark.parametrize(
    "path, words",
    [
        ("page", ["text/html", "not a picture"]),
        ("missing", ["404"]),
        ("cut", ["bytes"]),
        ("broken", ["damaged"]),
        ("large", ["larger than 64 MiB"]),
        ("to/file", ["cannot be had"]),
        ("to/loop", ["cannot be had"]),
    ],
)
def test_bad_answers_are_one_sentence(path, words, server):
    refused(lambda: load_image(f"{server}/{path}"), f"{server}/{path}", *words)


def test_an_answer_without_a_length_is_cut_off(server):
    refused(lambda: web.fetch(f"{server}/endless", limit=10**5), "larger than")


def test_a_byte_now_and_then_is_not_waited_for(server):
    start = time.monotonic()
    refused(lambda: web.fetch(f"{server}/slow", seconds=0.5), "no whole answer in time", "download")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.png", "https://", "http://[x/a.png"])
def test_no_server(address):
    refused(lambda: load_image(address), address, "cannot be had")


@pytest.mark.parametrize(
    "source, name",
    [
        ("a/b/photo.jpg", "photo"),
        ("https://x.org/a/my%20photo.jpg?size=1#x", "my photo"),
        ("https://x.org/", "picture"),
        ("https://x.org/a%2F..%5Cb.png", "b"),
        ("-", "picture"),
    ],
)
def test_stem(source, name):
    assert stem(source) == name


# ---- streams -------------------------------------------------------------------------------------


class Standard:
    """Standard input or output with these bytes."""

    def __init__(self, content=b"", terminal=False):
        self.buffer, self.terminal = io.BytesIO(content), terminal

    def isatty(self):
        return self.terminal


def test_streams_are_read():
    assert same(load_image(io.BytesIO(png())), PICTURE)
    assert load_mask(io.BytesIO(png()), PICTURE.size).shape == (6, 8)
    refused(lambda: load_image(io.BytesIO()), "empty")
    refused(lambda: load_image(io.StringIO("x")), "binary")


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Standard(png()))
    assert same(load_image("-"), PICTURE)
    monkeypatch.setattr(sys, "stdin", Standard())
    refused(lambda: load_image("-"), "standard input", "empty")
    monkeypatch.setattr(sys, "stdin", Standard(b"text"))
    refused(lambda: load_image("-"), "standard input", "known format")
    monkeypatch.setattr(sys, "stdin", Standard(png(), terminal=True))
    refused(lambda: load_image("-"), "standard input", "terminal")


def test_standard_output(monkeypatch):
    out = Standard()
    monkeypatch.setattr(sys, "stdout", out)
    check_writable("-")
    assert out.buffer.getvalue() == b""
    save_atomically("-", PICTURE)
    assert same(Image.open(io.BytesIO(out.buffer.getvalue())), PICTURE)
    monkeypatch.setattr(sys, "stdout", Standard(terminal=True))
    refused(lambda: check_writable("-"), "standard output", "terminal")


def test_a_closed_pipe_is_one_sentence():
    class Closed:
        def write(self, _):
            raise BrokenPipeError(32, "Broken pipe")

    refused(lambda: write_stream(Closed(), PICTURE), "closed", "Broken pipe")


def test_bytes_go_out_as_they_are():
    out = io.BytesIO()
    write_stream(out, b"abc")
    assert out.getvalue() == b"abc"
