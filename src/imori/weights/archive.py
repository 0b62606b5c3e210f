"""Members of a zip archive, as data: each under one name, and none longer than its reader allows.

What an archive declares of a member's size binds nobody: it is unpacked piece by piece, and no further than the limit.
bzip2 and LZMA cannot be unpacked so, and neither NumPy nor Keras packs by them.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

from imori.errors import WeightsError

PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1
"""The bit of a member's flags that says so."""


def members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Name -> member. WeightsError where a name is there twice, or a member is encrypted or packed in another way."""
    for name, count in Counter(archive.namelist()).items():
        if count > 1:
            raise WeightsError(f"{path} holds {name} {count} times, and was not read")
    for info in archive.infolist():
        if info.flag_bits & ENCRYPTED or info.compress_type not in PACKED:
            raise WeightsError(
                f"{path}: its {info.filename!r:.80} is encrypted, or packed by another method than deflate, and was not"
                " read; pack it anew"
            )
    return {info.filename: info for info in archive.infolist()}


def unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int, path: Path) -> bytes:
    """A member's bytes. WeightsError where it has more than `most`."""
    with archive.open(member) as packed:
        data = packed.read(most + 1)
    if len(data) > most:
        raise WeightsError(f"{path}: its {member.filename} has more than {most} bytes, and was not read; it is damaged")
    return data
