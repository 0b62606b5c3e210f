"""Files from publishers' servers, kept on this machine. Standard library only.

A file is in its place whole or not at all. Until it is whole, its beginning lies beside it as .NAME.partial, and is
gone on with where the server still has the same file: .NAME.lock holds the validator that the server gave (an ETag or a
date), and keeps two processes from writing at once.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from imori.errors import DownloadError
from imori.weights.file import remedy
from imori.weights.locking import locked

CACHE, MIRROR = "IMORI_CACHE", "IMORI_MIRROR"
"""Environment variables: the folder where files are kept; and a server to ask in place of the publishers' own, which
has each file under its publisher's host, as http://10.0.0.5/download.pytorch.org/models/resnet18-f37072fd.pth."""
MOST = 4 * 2**30
"""Bytes that a file may have."""
CHUNK = 2**18
TRIES, PATIENCE = 4, 30.0
"""How often in a row a connection may bring nothing new, and for how many seconds it may be silent."""
TRANSIENT = (408, 416, 429, 500, 502, 503, 504)
"""Refusals by a server that may end well when it is asked again."""
Progress: TypeAlias = Callable[[int, int], None]
"""Told the bytes that are there and those of the whole file, which are 0 where the server does not say."""


def cache() -> Path:
    """Where files are kept: IMORI_CACHE, or where this system keeps what can be fetched again."""
    if chosen := os.environ.get(CACHE):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local", "imori", "cache")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "imori"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "imori")


def fetched(address: str, file: Path, checksum: str = "", progress: Progress = lambda done, total: None) -> Path:
    """`file`, downloaded from `address` unless it is there already.

    `checksum` is "md5:…", or "sha256:…" with all digits or the first ones; one that the server gives is checked too.
    DownloadError for a file that cannot be fetched, with the address and the place to put it by hand, and for one with
    another checksum, which is removed.
    """
    try:
        if file.exists():
            _verify(file, checksum, file, address)
            return file
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_name(f".{file.name}.lock")) as lock:
            if not file.exists():  # another process may have been faster
                download = _Download(address, file, file.with_name(f".{file.name}.partial"), lock, progress)
                for known in (checksum, *_complete(download)):
                    _verify(download.partial, known, file, address)
                download.partial.replace(file)
    except OSError as error:
        raise DownloadError(f"{file} could not be written: {error.strerror or error}; {remedy(error, file)}") from error
    return file


@dataclass(frozen=True)
class _Download:
    address: str
    file: Path
    partial: Path
    lock: IO[str]
    progress: Progress

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def stops(self, why: object) -> DownloadError:
        """What is said of a file that could not be fetched."""
        rest = f", or run this again to go on from {self.size:,} bytes" if self.size else ""
        return DownloadError(
            f"{self.address} could not be downloaded ({why}); fetch it where that works, and put it at"
            f" {self.file}{rest}"
        )


def _complete(download: _Download) -> list[str]:
    """Downloads what is wanting, in as many connections as it takes, and gives the checksums that the server named."""
    idle = 0
    while True:
        before = download.size
        try:
            return _received(download)
        except (URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
            if isinstance(error, HTTPError) and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                download.partial.unlink(missing_ok=True)
            idle = 0 if download.size > before else idle + 1
            final = isinstance(error, HTTPError) and error.code not in TRANSIENT
            if final or idle >= TRIES or not before + download.size:
                raise download.stops(_reason(error)) from error
        time.sleep(idle)


def _reason(error: Exception) -> str:
    """As "HTTP 404 Not Found", "Name or service not known", "timed out"."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _received(download: _Download) -> list[str]:
    """Appends what one connection brings. ConnectionError where that is not all."""
    start = download.size
    headers = {"User-Agent": "imori", "Accept-Encoding": "identity"}
    download.lock.seek(0)
    if start and (validator := download.lock.read()):
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    redirects = _Redirects()
    address = _mirrored(download.address)
    redirects.check(address)
    with build_opener(redirects).open(Request(address, headers=headers), timeout=PATIENCE) as answer:
        start, total = _extent(answer, start)
        if total > MOST:
            raise download.stops(f"it has {total:,} bytes, and {MOST:,} are the most that is taken")
        _remember(download.lock, answer.headers)
        with open(download.partial, "ab" if start else "wb") as partial:
            done = start
            while piece := answer.read1(CHUNK):
                done += partial.write(piece)
                if done > MOST:
                    partial.truncate(0)
                    raise download.stops(f"it has more than {MOST:,} bytes, the most that is taken")
                download.progress(done, total)
            partial.flush()
            os.fsync(partial.fileno())
        if total and done != total:
            raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")
        return _named(redirects.seen, answer.headers)


def _extent(answer: Any, start: int) -> tuple[int, int]:
    """Where in the file an answer begins, and the file's size; 0 where the server does not say."""
    if answer.status != http.client.PARTIAL_CONTENT:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start:
        raise http.client.HTTPException(f"it was asked for the bytes from {start:,}, and sent others")
    return start, int(found[2])


def _remember(lock: IO[str], headers: Message) -> None:
    """Keeps what tells whether the server still has the same file; a weak ETag does not."""
    tag = headers.get("ETag", "")
    lock.truncate(0)
    lock.write(tag if tag.startswith('"') else headers.get("Last-Modified", ""))
    lock.flush()


# --- whom to ask -----------------------------------------------------------------------------------------------------


def _mirrored(address: str) -> str:
    mirror, parts = os.environ.get(MIRROR), urlsplit(address)
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}" if mirror else address


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to HTTPS alone, or to the mirror that the user named, and keeps their headers."""

    def __init__(self) -> None:
        self.seen = Message()

    def check(self, address: str) -> None:
        """DownloadError for an address that could be listened to or changed on the way."""
        mirror = os.environ.get(MIRROR)
        if not address.startswith("https://") and not (mirror and urlsplit(mirror)[:2] == urlsplit(address)[:2]):
            raise DownloadError(f"{address} is no https address, and nothing is fetched from it; set {MIRROR} to one")

    def redirect_request(
        self, request: Request, file: IO[bytes], code: int, message: str, headers: Any, address: str
    ) -> Request | None:
        """The request that follows."""
        self.check(address)
        for name, value in headers.items():
            self.seen[name] = value
        return super().redirect_request(request, file, code, message, headers, address)


# --- checksums -------------------------------------------------------------------------------------------------------


def _named(*headers: Message) -> list[str]:
    """The checksums that a server gives: Hugging Face's of large files, and those of Google's storage."""
    found = []
    for each in headers:
        if digest := re.fullmatch(r'"([0-9a-f]{64})"', each.get("X-Linked-Etag", "")):
            found.append(f"sha256:{digest[1]}")
        for digest in re.finditer(r"md5=([A-Za-z0-9+/]{22}==)", ",".join(each.get_all("x-goog-hash", []))):
            found.append(f"md5:{base64.b64decode(digest[1]).hex()}")
    return found


def _verify(path: Path, checksum: str, named: Path, address: str) -> None:
    """DownloadError for a file with another checksum, which is removed."""
    algorithm, _, expected = checksum.partition(":")
    if not expected:
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    if not digest.startswith(expected):
        path.unlink()
        raise DownloadError(
            f"{named}, from {address}, has the {algorithm} {digest[: len(expected)]} and must have {expected}: it was"
            " damaged or changed on its way, and is removed; try again"
        )
