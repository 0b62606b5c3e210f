"""Files are fetched whole, gone on with, checked, and refused, from a server on this machine."""

import base64
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from imori.errors import DownloadError
from imori.pretrained import downloads
from imori.pretrained.downloads import cache, fetched

ADDRESS, PLACE = "https://example.org/models/net.pth", "/example.org/models/net.pth"
CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(publisher):
    publisher.files[PLACE] = CONTENT
    return publisher


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "them" / "net.pth"


def left(file: Path) -> set[str]:
    """What lies in the file's folder, but for the lock."""
    return {path.name for path in file.parent.iterdir()} - {f".{file.name}.lock"}


def broken_off(server, file: Path, after: int = 100_000) -> None:
    """A download that stopped for good after so many bytes."""
    server.cut, server.codes = after, []
    whole, server.files[PLACE] = server.files[PLACE], server.files[PLACE]

    def vanish(done: int, total: int) -> None:
        if done == after:
            server.codes = [503] * 9

    with pytest.raises(DownloadError, match="run this again to go on from 100,000 bytes"):
        fetched(ADDRESS, file, progress=vanish)
    server.cut, server.codes, server.files[PLACE] = None, [], whole
    server.asked.clear()
    assert left(file) == {".net.pth.partial"}


def test_a_file_is_fetched_once(server, file: Path) -> None:
    told: list[tuple[int, int]] = []
    assert fetched(ADDRESS, file, f"sha256:{SHA256}", lambda *bytes: told.append(bytes)) == file
    assert file.read_bytes() == CONTENT
    assert left(file) == {"net.pth"}
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    fetched(ADDRESS, file, f"sha256:{SHA256[:8]}")
    assert server.asked == [(PLACE, None, None)]


@pytest.mark.parametrize("header", [{"ETag": '"one"'}, {"Last-Modified": "Mon, 02 Jan 2023 03:04:05 GMT"}])
def test_a_connection_that_breaks_is_gone_on_with(server, file: Path, header: dict[str, str]) -> None:
    server.cut, server.headers = 50_000, header
    (validator,) = header.values()
    assert fetched(ADDRESS, file).read_bytes() == CONTENT
    rest = [(PLACE, f"bytes={start}-", validator) for start in range(50_000, 300_000, 50_000)]
    assert server.asked == [(PLACE, None, None), *rest]


def test_a_download_that_was_given_up_is_gone_on_with(server, file: Path) -> None:
    broken_off(server, file)
    assert fetched(ADDRESS, file, f"md5:{MD5}").read_bytes() == CONTENT
    assert server.asked == [(PLACE, "bytes=100000-", '"one"')]
    assert left(file) == {"net.pth"}


def test_a_download_that_was_stopped_is_gone_on_with(server, file: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(ADDRESS, file, progress=stop)
    assert left(file) == {".net.pth.partial"}
    assert fetched(ADDRESS, file).read_bytes() == CONTENT
    assert server.asked[-1][1] is not None


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, file: Path) -> None:
    broken_off(server, file)
    server.files[PLACE], server.headers = CONTENT[::-1], {"ETag": '"two"'}
    assert fetched(ADDRESS, file).read_bytes() == CONTENT[::-1]
    assert server.asked == [(PLACE, "bytes=100000-", '"one"')]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}], ids=["none", "weak"])
def test_without_a_sure_validator_a_file_is_fetched_anew(server, file: Path, headers: dict[str, str]) -> None:
    server.headers = headers
    broken_off(server, file)
    assert fetched(ADDRESS, file).read_bytes() == CONTENT
    assert server.asked == [(PLACE, None, None)]


def test_a_server_that_knows_no_ranges_sends_the_whole(server, file: Path) -> None:
    broken_off(server, file)
    server.ranges = False
    assert fetched(ADDRESS, file).read_bytes() == CONTENT


def test_a_partial_file_that_is_whole_or_too_long_is_fetched_anew(server, file: Path) -> None:
    broken_off(server, file)
    file.with_name(".net.pth.partial").write_bytes(CONTENT + b"more")
    assert fetched(ADDRESS, file).read_bytes() == CONTENT


def test_a_server_that_is_busy_is_asked_again(server, file: Path) -> None:
    broken_off(server, file)
    server.codes = [503, 429]
    assert fetched(ADDRESS, file).read_bytes() == CONTENT


def test_a_file_whose_size_nobody_says(server, file: Path) -> None:
    server.sized = False
    told: list[tuple[int, int]] = []
    assert fetched(ADDRESS, file, progress=lambda *bytes: told.append(bytes)).read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), 0)


# --- checksums -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [f"sha256:{'0' * 8}", f"sha256:{SHA256[:-1]}x", f"md5:{'0' * 32}"])
def test_a_wrong_checksum_is_refused_and_the_file_removed(server, file: Path, checksum: str) -> None:
    with pytest.raises(
        DownloadError, match=rf"net\.pth, from {ADDRESS}, has the .* must have {checksum.partition(':')[2]}"
    ):
        fetched(ADDRESS, file, checksum)
    assert left(file) == set()


def test_a_file_of_the_cache_that_was_damaged_is_refused_and_removed(server, file: Path) -> None:
    fetched(ADDRESS, file)
    file.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(DownloadError, match="is removed; try again"):
        fetched(ADDRESS, file, f"md5:{MD5}")
    assert left(file) == set()
    assert fetched(ADDRESS, file, f"md5:{MD5}").read_bytes() == CONTENT


def google(content: bytes) -> str:
    return f"crc32c=AAAAAA==,md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("whose", ["google", "hugging-face"])
def test_a_checksum_that_the_server_gives_is_checked(server, file: Path, whose: str, right: bool) -> None:
    said = CONTENT if right else b"another file"
    if whose == "google":
        server.headers["x-goog-hash"] = google(said)
    else:
        server.files["/storage/1"] = server.files.pop(PLACE)
        headers = {"X-Linked-Etag": f'"{hashlib.sha256(said).hexdigest()}"'}
        server.redirects[PLACE] = (f"{server.address}/storage/1", headers)
    if right:
        assert fetched(ADDRESS, file).read_bytes() == CONTENT
    else:
        with pytest.raises(DownloadError, match="is removed"):
            fetched(ADDRESS, file)
        assert left(file) == set()


# --- refusals --------------------------------------------------------------------------------------------------------


def test_without_a_network_the_message_says_what_to_fetch_and_where_to_put_it(
    server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(downloads.MIRROR, "http://127.0.0.1:1")
    with pytest.raises(DownloadError) as refused:
        fetched(ADDRESS, file)
    assert str(refused.value) == (
        f"{ADDRESS} could not be downloaded (Connection refused); fetch it where that works, and put it at {file}"
    )
    assert left(file) == set()
    file.write_bytes(CONTENT)
    assert fetched(ADDRESS, file, f"sha256:{SHA256}") == file, "what was put there by hand is taken"


def test_a_file_that_is_not_there_is_not_asked_for_again(server, file: Path) -> None:
    server.files.clear()
    with pytest.raises(DownloadError, match=r"net\.pth could not be downloaded \(HTTP 404 Not Found\); fetch it"):
        fetched(ADDRESS, file)
    assert len(server.asked) == 1


@pytest.mark.parametrize("sized", [True, False])
def test_a_file_that_is_too_large_is_refused(server, file: Path, sized: bool, monkeypatch) -> None:
    server.sized = sized
    monkeypatch.setattr(downloads, "MOST", len(CONTENT) - 1)
    with pytest.raises(DownloadError, match="299,999"):
        fetched(ADDRESS, file)
    assert sum(path.stat().st_size for path in file.parent.iterdir() if not path.name.endswith("lock")) == 0
    assert left(file) == (set() if sized else {".net.pth.partial"}), "one whose size is said is not even begun"


@pytest.mark.parametrize("address", ["http://example.org/net.pth", "file:///etc/passwd", "ftp://example.org/net.pth"])
def test_only_https_is_asked(file: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.delenv(downloads.MIRROR, raising=False)
    with pytest.raises(DownloadError, match="is no https address"):
        fetched(address, file)


@pytest.mark.parametrize("place", ["http://localhost:{}/other", "file:///etc/passwd"])
def test_a_redirect_to_anything_else_is_refused(server, file: Path, place: str) -> None:
    server.files["/other"] = CONTENT
    server.redirects[PLACE] = (place.format(server.server_port), {})
    with pytest.raises(DownloadError):
        fetched(ADDRESS, file)
    assert not file.exists()


def test_an_answer_with_other_bytes_than_those_asked_for_is_not_taken(server, file: Path, monkeypatch) -> None:
    broken_off(server, file)
    server.headers["Content-Range"] = "bytes 7-299999/300000"  # before the right one
    with pytest.raises(DownloadError, match="asked for the bytes from 100,000, and sent others"):
        fetched(ADDRESS, file)


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    file = tmp_path / "cache" / "net.pth"
    with pytest.raises(DownloadError, match=r"net\.pth could not be written: .*a file where a folder should be"):
        fetched(ADDRESS, file)


# --- places ----------------------------------------------------------------------------------------------------------


def test_several_at_once_fetch_a_file_once(server, file: Path) -> None:
    server.pause = 0.2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetched(ADDRESS, file, f"md5:{MD5}"), range(4)))
    assert found == [file] * 4
    assert file.read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, "home/.cache/imori"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/imori"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/imori"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/imori/cache"),
        ("linux", {"IMORI_CACHE": "mine", "XDG_CACHE_HOME": "xdg"}, "mine"),
    ],
)
def test_where_files_are_kept(monkeypatch, platform: str, variables: dict[str, str], place: str) -> None:
    for name in ("IMORI_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    assert cache() == Path(place)
