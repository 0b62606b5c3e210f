"""Checkpoints as torchvision and timm write them, read from real files, give the logits of their own networks.

The references hold the names and shapes of a published network's tensors, and its logits to 10 digits; the tensors'
values are made from their names, as `values.py` beside them makes them.
"""

import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import imori
from imori.catalogue import variants
from imori.shapes import Shape, summary
from imori.weights import tables

TOLERANCE = 1e-9
"""How far the logits may be apart in float64, as a share of the largest."""

# The reference -> our model, how its checkpoint is written, and the framework that runs it. What is heavy is slow.
REFERENCES = {
    "torchvision-alexnet": ("alexnet", "pth", "torch"),
    "torchvision-vgg16": ("vgg16", "pth", "torch"),
    "torchvision-vgg16_bn": ("vgg16_bn", "safetensors", "torch"),
    "torchvision-resnet18": ("resnet18", "pth", "numpy"),
    "torchvision-resnet50": ("resnet50", "safetensors", "torch"),
    "torchvision-resnext50_32x4d": ("resnext50_32x4d", "safetensors", "torch"),
    "torchvision-googlenet": ("googlenet", "pth", "numpy"),
    "torchvision-densenet121": ("densenet121", "safetensors", "torch"),
    "torchvision-mobilenet_v2": ("mobilenet_v2", "pth", "numpy"),
    "timm-resnext101_32x4d": ("resnext101_32x4d", "pth", "torch"),
    "timm-legacy_xception": ("xception", "safetensors", "numpy"),
    "timm-mobilenetv1_100": ("mobilenet_v1", "pth", "torch"),
    "timm-mobilenetv2_100": ("mobilenet_v2", "safetensors", "torch"),
}
SLOW = ("torchvision-alexnet", "torchvision-vgg16", "torchvision-vgg16_bn")


@dataclass
class Reference:
    """A published network: its input, the numbers of its checkpoint, and what it gave."""

    spec: dict[str, Any]
    values: dict[str, Any]

    @property
    def shape(self) -> Shape:
        return tuple(self.spec["input"][1:])

    def tensors(self) -> dict[str, np.ndarray]:
        """The state dict in float64, counts of batches included."""
        make: Callable[..., np.ndarray] = self.values["tensor"]
        return {
            name: np.zeros((), np.int64) if name.endswith("num_batches_tracked") else make(name, tuple(size))
            for name, size in self.spec["tensors"]
        }

    def error(self, path: Path, name: str, framework: str) -> float:
        """How far the logits of our network are from theirs, with the weights of the file at `path`."""
        source = self.spec["source"]
        tree = imori.model(name, variant=source if source in variants(name) else None)
        assert summary(tree, self.shape).parameters == self.spec["trainable_parameters"]
        weights = imori.read_weights(path, tree, source=source, shape=self.shape)
        native = imori.build(tree, self.shape, framework, weights, dtype="float64")
        images = self.values["image"](*self.spec["input"])
        published = np.array(self.spec["logits"])
        found = imori.logits(native, images)[:, : published.shape[1]]
        return float(np.abs(found - published).max() / np.abs(published).max())


@pytest.fixture
def reference(data_root: Path) -> Callable[[str], Reference]:
    """`reference("torchvision-resnet18")`."""
    folder = data_root / "reference"
    values = runpy.run_path(str(folder / "values.py"))
    return lambda name: Reference(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), values)


def saved(tensors: dict[str, np.ndarray], path: Path) -> Path:
    if path.suffix == ".pth":
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    else:
        safetensors.numpy.save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in REFERENCES]
)
def test_logits_are_those_published(reference: Callable[[str], Reference], tmp_path: Path, name: str) -> None:
    published = reference(name)
    ours, form, framework = REFERENCES[name]
    path = saved(published.tensors(), tmp_path / f"{name}.{form}")
    try:
        assert published.error(path, ours, framework) <= TOLERANCE
    finally:
        path.unlink()  # up to a gigabyte


def test_every_reference_is_read(data_root: Path) -> None:
    assert {path.stem for path in (data_root / "reference").glob("*.json")} == set(REFERENCES)


@pytest.mark.parametrize(
    "rows",
    [
        {"conv2.0.conv3": "layer1.0.downsample.0", "conv2.0.shortcut.conv": "layer1.0.conv3"},
        {"conv{s}.0.bn3": "layer{s-1}.0.downsample.1", "conv{s}.0.shortcut.bn": "layer{s-1}.0.bn3"},
    ],
    ids=["convolutions", "batch-norms"],
)
def test_two_layers_of_one_shape_that_are_swapped_are_seen(
    reference: Callable[[str], Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: dict[str, str]
) -> None:
    published = reference("torchvision-resnet50")
    path = saved(published.tensors(), tmp_path / "a.safetensors")
    monkeypatch.setitem(tables.PUBLISHERS["torchvision"], "resnet", rows | tables.RESNET)
    assert published.error(path, "resnet50", "torch") > 0.01
