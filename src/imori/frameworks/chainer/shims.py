"""Chainer itself, imported as on the Python and the NumPy that it was written for.

`import chainer` of 7.8.1 asks for `numpy.sctypes`, which NumPy 2 has no more, and to warn of a few old systems for
`numpy.distutils` and `pkg_resources`, which are gone from Python 3.12 and from setuptools 82 on. Some of Chainer's
gradients look at `sctypes` later, so that stays; the modules are there during the import alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def _distutils() -> Iterator[None]:
    """Inside, `numpy.distutils.system_info` is there and knows of no library."""
    package: Any = types.ModuleType("numpy.distutils")
    package.system_info = types.ModuleType("numpy.distutils.system_info")
    package.system_info.get_info = lambda name: {}
    vars(np)["distutils"] = package
    try:
        with _modules(package, package.system_info):
            yield
    finally:
        del vars(np)["distutils"]


@contextlib.contextmanager
def _pkg_resources() -> Iterator[None]:
    """Inside, `pkg_resources` is there and finds no distribution."""
    package: Any = types.ModuleType("pkg_resources")
    package.DistributionNotFound = package.VersionConflict = LookupError

    def require(requirement: str) -> None:
        raise LookupError(requirement)

    package.require = require
    with _modules(package):
        yield


@contextlib.contextmanager
def _modules(*modules: types.ModuleType) -> Iterator[None]:
    """Inside, these can be imported."""
    sys.modules |= {module.__name__: module for module in modules}
    try:
        yield
    finally:
        for module in modules:
            del sys.modules[module.__name__]


SHIMS = {"numpy.distutils": _distutils, "pkg_resources": _pkg_resources}

if not hasattr(np, "sctypes"):
    vars(np)["sctypes"] = {
        "int": [np.int8, np.int16, np.int32, np.int64],
        "float": [np.float16, np.float32, np.float64, np.longdouble],
    }
with warnings.catch_warnings(), contextlib.ExitStack() as _stack:
    warnings.simplefilter("ignore")
    for _name, _shim in SHIMS.items():
        if importlib.util.find_spec(_name) is None:
            _stack.enter_context(_shim())
    import chainer
    import chainer.functions as F  # noqa: N812
    import chainer.links as L  # noqa: N812

__all__ = ["F", "L", "chainer"]
