"""A model's arrays under canonical names, and how exactly it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from imori.frameworks.base import Array, InputCheck, Weights, weight_name
from imori.frameworks.chainer.links import Combinator, Variable, walk
from imori.frameworks.chainer.shims import L, chainer

_ROLES = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "avg_mean": "mean", "avg_var": "var"}


class Built(chainer.LinkHook):
    """Marks the root of what `build` made, and refuses images that it was not built for."""

    name = "imori"

    def __init__(self, check: InputCheck, dtype: str) -> None:
        self.check, self.dtype = check, dtype

    def forward_preprocess(self, args: Any) -> None:
        """TreeError that names both sizes."""
        for x in args.args[:1]:
            self.check(x.shape, chainer.config.train)


def dtype_of(native: chainer.Link) -> str:
    """What a model was built in."""
    return str(native.local_link_hooks[Built.name].dtype)


def places(native: chainer.Link) -> dict[str, tuple[chainer.Link, str]]:
    """Canonical name -> the link and its attribute, in the order in which the layers run."""
    return {
        weight_name(path, role): (link, attribute)
        for path, link in walk(native)
        if not isinstance(link, Combinator)
        for attribute, role in _ROLES.items()
        if getattr(link, attribute, None) is not None
    }


def canonical(link: chainer.Link, array: Array) -> Array:
    """A weight of a link, or its gradient, in canonical layout: a view."""
    is_weight = isinstance(link, L.DepthwiseConvolution2D) and array.ndim == 4
    return array.swapaxes(0, 1) if is_weight else array  # (1, C, H, W) -> (C, 1, H, W)


def arrays(native: chainer.Link) -> Weights:
    """Canonical name -> the model's own array, in canonical layout."""
    return {
        name: canonical(link, chainer.as_array(getattr(link, attribute)))
        for name, (link, attribute) in places(native).items()
    }


def as_array(array: Any) -> Array:
    """A contiguous copy in NumPy, of NumPy's or CuPy's array."""
    return np.array(chainer.backends.cuda.to_cpu(array), order="C")


def as_variable(native: chainer.Link, array: Array) -> Variable:
    """What the model computes with, in its dtype and on its device."""
    return chainer.as_variable(native.xp.asarray(array, dtype_of(native)))


@contextlib.contextmanager
def running(native: chainer.Link, train: bool) -> Iterator[None]:
    """Inside, the model runs on its device in this mode, exactly, whatever `chainer.config` says outside."""
    chosen = {"train": train, "enable_backprop": train, "cudnn_deterministic": True, "use_cudnn_tensor_core": "never"}
    with contextlib.ExitStack() as stack:
        for name, value in chosen.items():
            stack.enter_context(chainer.using_config(name, value))
        stack.enter_context(chainer.using_device(native.device))
        stack.enter_context(np.errstate(over="ignore", invalid="ignore", divide="ignore"))  # the logits tell
        yield
