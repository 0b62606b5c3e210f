"""How long a fresh process takes to import imori and to answer `imori show resnet50`, beside Python itself and torch.

    python benchmarks/startup.py [rounds]

Each command runs in a process of its own, in turn, `rounds` times (15 unless given) after one round that is not
counted; medians are printed, and the slowest. The clock runs from the process's start to its end, so that what a bare
`python -c pass` takes is part of every figure; the second column leaves it out.
"""

from __future__ import annotations

import importlib.util
import platform
import statistics
import subprocess
import sys
import time

import imori

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "import imori": ("-c", "import imori"),
    "imori --version": ("-m", "imori", "--version"),
    "imori show resnet50": ("-m", "imori", "show", "resnet50"),
    "imori models": ("-m", "imori", "models"),
    "import numpy": ("-c", "import numpy"),
    "import torch": ("-c", "import torch"),
}


def seconds(arguments: tuple[str, ...]) -> float:
    """The time of one fresh process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    commands = dict(COMMANDS)
    for name in ("numpy", "torch"):
        if importlib.util.find_spec(name) is None:
            del commands[f"import {name}"]
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for i in range(rounds + 1):
        for name, arguments in commands.items():
            once = seconds(arguments)
            if i:
                taken[name].append(once)
    bare = statistics.median(taken["python -c pass"])
    print(f"imori {imori.__version__}, Python {platform.python_version()}, {platform.machine()}, {rounds} rounds")
    print(f"{'':22}{'median ms':>10}{'beyond Python':>15}{'slowest':>9}")
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"{name:22}{1000 * median:10.0f}{1000 * (median - bare):15.0f}{1000 * max(times):9.0f}")


if __name__ == "__main__":
    main()
