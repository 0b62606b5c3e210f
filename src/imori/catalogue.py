"""The networks by name. Each line says where a name's function is and what it is called with; none is imported yet."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imori.errors import ImoriError, NameUnknown, TreeError
from imori.tree import Tree, from_json


@dataclass(frozen=True)
class Entry:
    """Where a network is written, and the height and width that its paper feeds it."""

    function: str
    size: int
    arguments: tuple[Any, ...] = ()


CATALOGUE: dict[str, Entry] = {
    "lenet": Entry("lenet:lenet", 32),
    "alexnet": Entry("alexnet:alexnet", 227),
    "vgg16": Entry("vgg:vgg", 224, (16,)),
    "vgg19": Entry("vgg:vgg", 224, (19,)),
    "vgg16_bn": Entry("vgg:vgg", 224, (16, True)),
    "vgg19_bn": Entry("vgg:vgg", 224, (19, True)),
    "resnet18": Entry("resnet:resnet", 224, (18,)),
    "resnet34": Entry("resnet:resnet", 224, (34,)),
    "resnet50": Entry("resnet:resnet", 224, (50,)),
    "resnet101": Entry("resnet:resnet", 224, (101,)),
    "resnet152": Entry("resnet:resnet", 224, (152,)),
    "resnet_mnist_plain": Entry("resnet_mnist:resnet_mnist", 28, ("plain",)),
    "resnet_mnist_bottleneck": Entry("resnet_mnist:resnet_mnist", 28, ("bottleneck",)),
}
