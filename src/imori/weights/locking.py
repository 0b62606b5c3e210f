"""Files that one process holds at a time. Standard library only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[IO[str]]:
    """The file, made if it is not there, held by this process alone; the system lets it go however the process ends.

    Others wait, or get a BlockingIOError.
    """
    with open(path, "a+", encoding="utf-8") as lock:
        if sys.platform == "win32":
            import msvcrt

            lock.seek(2**30)  # what is locked there cannot be read by others
            while True:
                try:
                    msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                    break
                except OSError as error:  # where it waits, after ten seconds
                    if not wait:
                        raise BlockingIOError(f"{path} is held by another process") from error
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
