"""Features on disk: found again, never trusted unread, whatever became of the file."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from imori.errors import RunError
from imori.transfer.cache import HEADER, FeatureCache

KEY = hashlib.sha256(b"a network").hexdigest()
SHAPE = (3, 2)


def name(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def rows(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count * 6, dtype=np.float32).reshape(count, *SHAPE) + 0.5


def opened(folder: Path, key: str = KEY) -> FeatureCache:
    return FeatureCache(folder, key, SHAPE, "float32")


def write(folder: Path, numbers: range) -> Path:
    with opened(folder).adding() as add:
        add([name(number) for number in numbers], rows(numbers.start, len(numbers)))
    return max(folder.iterdir(), key=lambda path: path.name)


def test_rows_are_found_again_in_any_order(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    write(tmp_path, range(100, 103))
    held = opened(tmp_path)
    features = held.features([name(101), name(2), name(0)])
    assert np.array_equal(features.take(np.array([0, 1, 2])), [rows(100, 3)[1], rows(0, 4)[2], rows(0, 4)[0]])
    assert np.array_equal(features.take(np.array([2, 2])), [rows(0, 4)[0]] * 2)
    assert held.find(name(7)) is None


def test_rows_are_there_at_once_for_the_process_that_wrote_them(tmp_path: Path) -> None:
    held = opened(tmp_path)
    with held.adding() as add:
        add([name(1)], rows(5, 1))
    assert np.array_equal(held.features([name(1)]).take(np.array([0])), rows(5, 1))


def test_rows_stay_for_their_process_where_the_folder_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    held = opened(folder)
    with held.adding() as add:
        add([name(1)], rows(5, 1))
        shutil.rmtree(folder)
        add([name(2)], rows(7, 1))
    with held.adding() as add:
        add([name(3)], rows(9, 1))
    assert np.array_equal(held.features([name(2), name(1)]).take(np.array([1, 0])), [rows(5, 1)[0], rows(7, 1)[0]])
    assert opened(folder).find(name(3))


@pytest.mark.parametrize("left", [1, 30, 63])
def test_an_unfinished_record_has_no_effect(tmp_path: Path, left: int) -> None:
    path = write(tmp_path, range(3))
    os.truncate(path, path.stat().st_size - left)
    held = opened(tmp_path)
    assert [held.find(name(number)) is not None for number in range(3)] == [True, True, False]


@pytest.mark.parametrize("at", [HEADER + 3, HEADER + 33, HEADER + 45])
def test_a_damaged_record_is_not_found(tmp_path: Path, at: int) -> None:
    """In its name, its checksum and its row."""
    path = write(tmp_path, range(2))
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    held = opened(tmp_path)
    assert [held.find(name(number)) is not None for number in range(2)] == [False, True]


def test_a_damaged_record_is_replaced_by_a_new_one(tmp_path: Path) -> None:
    path = write(tmp_path, range(1))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    write(tmp_path, range(1))
    assert np.array_equal(opened(tmp_path).features([name(0)]).take(np.array([0])), rows(0, 1))


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "a.features"
    foreign.write_bytes(b"something else" * 100)
    (tmp_path / "b.features").write_bytes(b"")
    other = write(tmp_path, range(2))
    assert opened(tmp_path, hashlib.sha256(b"another network").hexdigest()).find(name(0)) is None
    assert opened(tmp_path).find(name(0)) is not None
    assert foreign.read_bytes() == b"something else" * 100
    assert other.exists()


def test_two_processes_write_side_by_side(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    with one.adding() as first, two.adding() as second:
        first([name(1)], rows(1, 1))
        second([name(1), name(2)], rows(1, 2))
        first([name(3)], rows(3, 1))
    held = opened(tmp_path)
    assert all(held.find(name(number)) for number in (1, 2, 3))


def test_a_killed_process_keeps_what_it_had_computed(tmp_path: Path) -> None:
    script = (
        "import sys, time, hashlib, numpy as np; from pathlib import Path\n"
        "from imori.transfer.cache import FeatureCache\n"
        f"with FeatureCache(Path(sys.argv[1]), {KEY!r}, {SHAPE}, 'float32').adding() as add:\n"
        "    for i in range(10**6):\n"
        "        add([hashlib.sha256(str(i).encode()).digest()], np.full((1, 3, 2), i, 'float32'))\n"
        "        if i == 5: print('five', flush=True)\n"
        "        time.sleep(0.001)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    features = opened(tmp_path).features([name(number) for number in range(6)])
    assert np.array_equal(features.take(np.arange(6))[:, 0, 0], np.arange(6))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    usual = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda path, mode="r", *rest, **more: usual(
            "/dev/full" if mode == "x+b" else path, "w+b" if mode == "x+b" else mode, *rest, **more
        )
    )  # fmt: skip
    with pytest.raises(RunError, match=r"could not be kept .*No space left on device; free some space"):
        write(tmp_path, range(2))
