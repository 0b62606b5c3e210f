"""How long a training step takes in the modules that imori builds, beside the same network written by hand in torch.

    python benchmarks/step_torch.py                     # lenet and resnet18, at the sizes below
    python benchmarks/step_torch.py --model resnet18 --size 64 --batch 32 --rounds 20 --threads 2

One step takes a batch of NumPy arrays, and goes through forward, backward and SGD with momentum 0.9. The three take
turns in one process: ours, the plain module with its usual loop in torch's usual memory layout, and the same in
channels_last. Each round times a few steps of each; medians of the rounds are printed, and ours over either.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import imori
from imori import frameworks
from imori.frameworks.base import Array, Setup
from imori.optimizers import SGD

CLASSES = 10
#                 model, size, batch
CASES = (("lenet", 32, 64), ("resnet18", 32, 32), ("resnet18", 64, 32))


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


def plain(model: str) -> nn.Module:
    """The network by hand."""
    if model == "lenet":
        convolutions = (nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Sigmoid(), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2))
        dense = (nn.Linear(400, 120), nn.Linear(120, 64), nn.Linear(64, CLASSES))
        return nn.Sequential(*convolutions, nn.Sigmoid(), nn.Flatten(), *dense)
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    widths = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
    blocks = [Block(*width) for width in (*widths, (256, 512, 2), (512, 512, 1))]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


def plain_step(model: str, images: Array, labels: Array, layout: torch.memory_format) -> Callable[[], float]:
    """The usual loop's step."""
    native = plain(model).to(memory_format=layout)  # type: ignore[call-overload]  # torch forgot to say so
    optimizer = torch.optim.SGD(native.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        x, y = torch.from_numpy(images).contiguous(memory_format=layout), torch.from_numpy(labels)
        optimizer.zero_grad()
        loss = F.cross_entropy(native(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def our_step(model: str, images: Array, labels: Array) -> Callable[[], float]:
    """Imori's step in the module that it builds."""
    shape = images.shape[1:]
    native = imori.build(imori.model(model, CLASSES), shape, "torch")
    trainable = frozenset(name for name in imori.dump_weights(native) if name.endswith(("weight", "bias")))
    by_hand = sum(parameter.numel() for parameter in plain(model).parameters())
    assert by_hand == sum(parameter.numel() for parameter in native.parameters()), "the two networks differ"
    step = frameworks.get("torch").prepare(native, Setup(SGD(), trainable))
    targets, weights = np.eye(CLASSES, dtype="float32")[labels], np.ones(len(labels), "float32")
    return lambda: step(images, targets, weights, 0.01, 0)[0]


def measure(model: str, size: int, batch: int, rounds: int) -> None:
    """Times the three in turn, and prints."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 1 if model == "lenet" else 3, size, size), dtype="float32")
    labels = rng.integers(0, CLASSES, batch)
    steps = {
        "imori": our_step(model, images, labels),
        "by hand": plain_step(model, images, labels, torch.contiguous_format),
        "by hand, channels_last": plain_step(model, images, labels, torch.channels_last),
    }
    repeats = 10 if model == "lenet" else 2
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(repeats):
                step()
            if i >= 2:  # the first two rounds warm up
                taken[name].append((time.perf_counter() - began) / repeats * 1000)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(f"{model}, {size}×{size}, batch {batch}")
    for name, median in medians.items():
        ratio = "" if name == "imori" else f"   imori takes {medians['imori'] / median:.2f} of it"
        print(
            f"  {name:24}{median:8.1f} ms  (from {min(taken[name]):.1f} to {max(taken[name]):.1f}){ratio}", flush=True
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("lenet", "resnet18"))
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.rounds} rounds"
    )
    print(f"imori {imori.__version__}, Python {platform.python_version()}")
    chosen = [(arguments.model, arguments.size, arguments.batch)] if arguments.model else list(CASES)
    for model, size, batch in chosen:
        measure(model, size, batch, arguments.rounds)


if __name__ == "__main__":
    main()
