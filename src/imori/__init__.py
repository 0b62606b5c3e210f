"""imori: a folder of photos becomes an image classifier, with any classic CNN, in the framework you use.

    tree = imori.model("resnet50", classes=10)              # a network is a value
    native = imori.build(tree, (3, 224, 224), "torch")      # an ordinary torch.nn.Module
    run = imori.train("photos/", model="resnet18", out="runs/a")
    imori.load("runs/a").predict(["a.jpg"])

Importing imori imports nothing else: each name below is fetched from its module when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imori.catalogue import list_models, model
    from imori.classifier import Classifier, Ensemble, ensemble, load
    from imori.comparison import compare
    from imori.conversion import Conversion, convert
    from imori.errors import ImoriError
    from imori.export import export_onnx
    from imori.frameworks import build, dump_weights, logits, outputs
    from imori.shapes import summary, walk
    from imori.train import Recipe, train
    from imori.tree import without_heads
    from imori.weights import initial_weights, read_weights, restrict

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Conversion",
    "Ensemble",
    "ImoriError",
    "Recipe",
    "build",
    "compare",
    "convert",
    "dump_weights",
    "ensemble",
    "export_onnx",
    "initial_weights",
    "list_models",
    "load",
    "logits",
    "model",
    "outputs",
    "read_weights",
    "restrict",
    "summary",
    "train",
    "walk",
    "without_heads",
]

_HOME = {
    "Classifier": "classifier",
    "Conversion": "conversion",
    "Ensemble": "classifier",
    "ImoriError": "errors",
    "Recipe": "train",
    "build": "frameworks",
    "compare": "comparison",
    "convert": "conversion",
    "dump_weights": "frameworks",
    "ensemble": "classifier",
    "export_onnx": "export",
    "initial_weights": "weights",
    "list_models": "catalogue",
    "load": "classifier",
    "logits": "frameworks",
    "model": "catalogue",
    "outputs": "frameworks",
    "read_weights": "weights",
    "restrict": "weights",
    "summary": "shapes",
    "train": "train",
    "walk": "shapes",
    "without_heads": "tree",
}


class _Module(ModuleType):
    """`imori.train` is a function, and a package too: importing the package must not put itself before the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Module


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'imori' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"imori.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
