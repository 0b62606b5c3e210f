"""The embedded digits: 1,797 real handwritten digits of 8 x 8 pixels, with a test part that is never trained on.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, https://doi.org/10.24432/C50P49, in the
copy of scikit-learn; licence in digits.LICENSE.txt.
"""

from __future__ import annotations

from importlib import resources

import numpy as np

from imori.data.images import PixelArrays

NAME = "digits"


def parts(channels: int) -> dict[str, PixelArrays]:
    """The digits that train, and the fixed 359 that test: every fifth one (index % 5 == 4).

    "digits/test/9" is the digit that scikit-learn numbers 9.
    """
    with (
        resources.files(__package__).joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        pixels, labels = stored["pixels"], stored["labels"]
    indices = np.arange(len(labels))
    return {
        part: PixelArrays(
            classes=tuple(map(str, range(10))),
            labels=labels[chosen].astype(np.int64),
            names=tuple(f"{NAME}/{part}/{index}" for index in indices[chosen]),
            channels=channels,
            pixels=np.rint(pixels[chosen] * (255 / 16)).astype(np.uint8),
        )
        for part, chosen in (("train", indices % 5 != 4), ("test", indices % 5 == 4))
    }
