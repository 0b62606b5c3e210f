"""How long a training step takes in the modules that imori builds, beside the same networks written by hand in torch.

    python benchmarks/step_torch.py                     # the cases below, some ten minutes
    python benchmarks/step_torch.py --model resnet18 --size 64 --batch 32 --rounds 20 --threads 2

One step takes a batch of NumPy arrays, and goes through forward, backward and SGD with momentum 0.9, and gives the
loss as a number. Both have torch's fused optimizer, the quicker of its two on a CPU. By hand, it is the usual loop in
torch's usual memory layout, and in channels_last; the faster of the two is what imori is measured by.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from turns import machine, print_medians, take_fresh_turns

import imori
from imori import frameworks
from imori.frameworks.base import Array, Setup
from imori.optimizers import SGD

Step: TypeAlias = Callable[[], float]
CLASSES = 10
RATE = 0.001
#        model, size, batch
CASES = (
    ("lenet", 28, 128),
    ("resnet18", 64, 16),
    ("resnet18", 96, 16),
    ("mobilenet_v2", 96, 16),
    ("vgg16", 64, 8),
)


class Block(nn.Module):
    """ResNet's basic block, as torch users write it."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down: nn.Module = nn.Identity()
        if stride > 1:
            self.down = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.down(x), inplace=True)


class Inverted(nn.Module):
    """MobileNet-v2's block."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.skips = stride == 1 and channels == out
        self.body = nn.Sequential(
            *(normalised(channels, wide, 1) if expansion > 1 else ()),
            *normalised(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.skips else y


def normalised(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    """MobileNet-v2's convolution, batch norm and ReLU6."""
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out), nn.ReLU6(inplace=True)


def lenet() -> nn.Module:
    """For 28×28 images of one channel."""
    convolutions = (nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Sigmoid(), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2))
    dense = (nn.Linear(256, 120), nn.Linear(120, 64), nn.Linear(64, CLASSES))
    return nn.Sequential(*convolutions, nn.Sigmoid(), nn.Flatten(), *dense)


def resnet18() -> nn.Module:
    """For images of any size."""
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    widths = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
    blocks = [Block(*width) for width in (*widths, (256, 512, 2), (512, 512, 1))]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


def mobilenet_v2() -> nn.Module:
    """For images of any size."""
    layers, channels = [*normalised(3, 32, 3, 2)], 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, out, repeats, stride in rows:
        for i in range(repeats):
            layers.append(Inverted(channels, out, 1 if i else stride, expansion))
            channels = out
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, CLASSES))
    return nn.Sequential(*layers, *normalised(320, 1280, 1), *end)


def vgg16() -> nn.Module:
    """For 64×64 images."""
    layers: list[nn.Module] = []
    channels = 3
    for out, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]
            channels = out
        layers.append(nn.MaxPool2d(2))
    dense = [nn.Linear(2048, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), *dense, nn.Dropout(), nn.Linear(4096, CLASSES))


BY_HAND: dict[str, Callable[[], nn.Module]] = {
    "lenet": lenet, "resnet18": resnet18, "mobilenet_v2": mobilenet_v2, "vgg16": vgg16,
}  # fmt: skip


def plain_step(native: nn.Module, images: Array, labels: Array, layout: torch.memory_format) -> Step:
    """The usual loop's step."""
    native.to(memory_format=layout)  # type: ignore[call-overload]  # torch forgot to say so
    optimizer = torch.optim.SGD(native.parameters(), RATE, momentum=0.9, fused=True)

    def step() -> float:
        x, y = torch.from_numpy(images).contiguous(memory_format=layout), torch.from_numpy(labels)
        optimizer.zero_grad()
        loss = F.cross_entropy(native(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return finite(loss.item())

    return step


def our_step(native: nn.Module, images: Array, labels: Array) -> Step:
    """Imori's step in the module that it builds."""
    trainable = frozenset(name for name in imori.dump_weights(native) if name.endswith(("weight", "bias")))
    step = frameworks.get("torch").prepare(native, Setup(SGD(), trainable))
    targets, weights = np.eye(CLASSES, dtype="float32")[labels], np.ones(len(labels), "float32")
    return lambda: finite(step(images, targets, weights, RATE, 0)[0])


def finite(loss: float) -> float:
    """AssertionError where it is not: training went astray, and its steps are cut short."""
    assert math.isfinite(loss)
    return loss


def written(model: str, ours: nn.Module) -> nn.Module:
    """The network by hand, with the weights of ours."""
    native = BY_HAND[model]()
    with torch.no_grad():
        for theirs, parameter in zip(native.parameters(), ours.parameters(), strict=True):
            assert theirs.shape == parameter.shape, "the two networks differ"
            theirs.copy_(parameter)
    return native


def measure(model: str, size: int, batch: int, rounds: int) -> None:
    """Times the three in turn, and prints."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 1 if model == "lenet" else 3, size, size), dtype="float32")
    labels = rng.integers(0, CLASSES, batch)
    tree, shape = imori.model(model, CLASSES, images.shape[1]), images.shape[1:]

    def by_hand(layout: torch.memory_format) -> Step:
        return plain_step(written(model, imori.build(tree, shape, "torch")), images, labels, layout)

    makers: dict[str, Callable[[], Step]] = {
        "imori": lambda: our_step(imori.build(tree, shape, "torch"), images, labels),
        "by hand": lambda: by_hand(torch.contiguous_format),
        "by hand, channels_last": lambda: by_hand(torch.channels_last),
    }
    losses = []
    for make in makers.values():
        step = make()
        torch.manual_seed(0)  # of the dropout
        losses.append(step())
    assert np.allclose(losses, losses[0], rtol=1e-3), f"the first losses differ: {losses}"
    print_medians(f"{model}, {size}×{size}, batch {batch}", take_fresh_turns(makers, rounds))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(BY_HAND))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine('torch')}, {torch.get_num_threads()} threads; medians of 3 × {arguments.rounds} rounds")
    chosen = [(arguments.model, arguments.size, arguments.batch)] if arguments.model else CASES
    for model, size, batch in chosen:
        measure(model, size, batch, arguments.rounds)


if __name__ == "__main__":
    main()
