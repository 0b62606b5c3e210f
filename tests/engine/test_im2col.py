"""The matrix of windows, and its gradient."""

from itertools import product

import numpy as np
import pytest

from imori.engine import Window, col2im, im2col

WINDOWS = [
    Window(kernel, stride, pads, dilation)
    for kernel, stride, pads, dilation in product(
        [(1, 1), (2, 3)], [(1, 1), (2, 1)], [(0, 0, 0, 0), (2, 1, 0, 3)], [(1, 1), (1, 2)]
    )
]


def test_the_matrix_of_the_docstring() -> None:
    image = np.arange(1, 10).reshape(1, 1, 3, 3)
    expected = [[1, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]]
    assert im2col(image, Window((2, 2))).tolist() == expected


def test_channels_go_down_and_images_go_along() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    columns = im2col(x, Window((2, 2))).reshape(2, 4, 3, 3, 4)
    for c, n, i, j in np.ndindex(2, 3, 3, 4):
        assert np.array_equal(columns[c, :, n, i, j], x[c, n, i : i + 2, j : j + 2].ravel())


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_col2im_is_the_gradient_of_im2col(window: Window) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 5, 6))
    columns = im2col(x, window)
    other = rng.standard_normal(columns.shape)
    # <im2col(x), c> = <x, col2im(c)> for all x and c says that one is the other's transpose.
    assert np.vdot(columns, other) == pytest.approx(np.vdot(x, col2im(other, window, x.shape)), rel=1e-12)


def test_each_pixel_by_itself_copies_nothing() -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 4, 5))
    assert np.shares_memory(im2col(x, Window((1, 1))), x)
    assert not np.shares_memory(im2col(x, Window((1, 1), stride=(2, 2))), x)
