"""A server on this machine in the publishers' place, and a cache of its own for each test."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imori.pretrained import downloads


class Publisher(ThreadingHTTPServer):
    """Serves `files` by path, with ranges and ETags as the publishers' servers have them, and with their troubles."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {"ETag": '"one"'}
        """Of every answer with a file."""
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        """Path -> where it is instead, and headers of that answer."""
        self.ranges, self.sized = True, True
        self.cut: int | None = None
        """Bytes after which every connection breaks."""
        self.codes: list[int] = []
        """What the next requests are refused with."""
        self.pause = 0.0
        self.asked: list[tuple[str, str | None, str | None]] = []
        """(path, Range, If-Range) of every request."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        server = self.server
        wanted, validator = self.headers.get("Range"), self.headers.get("If-Range")
        server.asked.append((self.path, wanted, validator))
        if server.codes:
            return self.send_error(server.codes.pop(0))
        if self.path in server.redirects:
            place, headers = server.redirects[self.path]
            return self.begin(302, {"Location": place, "Content-Length": "0", **headers})
        if self.path not in server.files:
            return self.send_error(404)
        content, start = server.files[self.path], 0
        known = (server.headers.get("ETag"), server.headers.get("Last-Modified"))
        if wanted and server.ranges and validator in known:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
        size = {"Content-Length": str(len(content) - start)} if server.sized else {}
        place = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.begin(206 if start else 200, {**size, **place, **server.headers})
        time.sleep(server.pause)
        self.wfile.write(content[start:][: server.cut])
        return None

    def begin(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """The server, which IMORI_MIRROR names; IMORI_CACHE is the folder "cache" of the test."""
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv(downloads.MIRROR, server.address)
        monkeypatch.setenv(downloads.CACHE, str(tmp_path / "cache"))
        monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
        yield server
        server.shutdown()
        thread.join()
