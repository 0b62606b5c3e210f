"""torchvision's own networks: the same tensors, in the same places, give the same logits.

The references hold the names and shapes of a published network's tensors, and its logits to 8 decimals; the tensors'
values are made from their names, as `values.py` beside them makes them.
"""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imori
from imori.shapes import resolve, summary
from imori.weights import shapes_of

ROLES = {"running_mean": "mean", "running_var": "var"}
# How wide the logits may be apart, as a share of the largest.
TOLERANCE = {"float64": 1e-9, "float32": 2e-5}


def residual(theirs: str) -> str:
    """The name in torchvision of a residual network's layer -> ours."""
    path = re.sub(r"^layer(\d)\.(\d+)\.", lambda found: f"conv{int(found[1]) + 1}.{found[2]}.body.", theirs)
    return path.replace("body.downsample.0", "shortcut.conv").replace("body.downsample.1", "shortcut.bn")


def renamed(spec: dict[str, Any], ours: list[str]) -> dict[str, str]:
    """The names in torchvision -> ours: by name where layers have names, by their order in a plain sequence."""
    names = [name for name, _ in spec["tensors"] if not name.endswith("num_batches_tracked")]
    if not spec["model"].startswith("resnet"):
        return dict(zip(names, ours, strict=True))
    split = (name.rpartition(".") for name in names)
    return {f"{path}.{role}": f"{residual(path)}.{ROLES.get(role, role)}" for path, _, role in split}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("alexnet", "float32"),
        ("resnet18", "float64"),
        ("resnet50", "float64"),
        pytest.param("vgg16_bn", "float32", marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_torchvision(data_root: Path, name: str, dtype: str) -> None:
    folder = data_root / "reference"
    spec = json.loads((folder / f"torchvision-{name}.json").read_text(encoding="utf-8"))
    values = runpy.run_path(str(folder / "values.py"))
    tensor: Callable[..., np.ndarray] = values["tensor"]
    batch, *shape = spec["input"]
    tree = imori.model(name, variant="torchvision")
    assert summary(tree, tuple(shape)).parameters == spec["trainable_parameters"]
    expected = shapes_of(resolve(tree, tuple(shape)))
    names = renamed(spec, list(expected))
    theirs = {names[their]: tuple(size) for their, size in spec["tensors"] if their in names}
    assert theirs == expected
    weights = {our: tensor(their, expected[our]).astype(dtype) for their, our in names.items()}
    native = imori.build(tree, tuple(shape), weights=weights)
    found = imori.logits(native, values["image"](batch, *shape).astype(dtype))[:, :40]
    reference = np.array(spec["logits"])
    assert np.abs(found - reference).max() <= TOLERANCE[dtype] * np.abs(reference).max()
