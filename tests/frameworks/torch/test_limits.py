"""What PyTorch cannot do, seen in PyTorch itself: each test is an entry of docs/limits.md."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


@pytest.mark.parametrize("function", [F.conv2d, F.conv_transpose2d], ids=lambda function: function.__name__)
def test_four_sided_padding(function: Any) -> None:
    with pytest.raises(RuntimeError, match="list of 2 values"):
        function(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3), padding=(0, 1, 1, 1))


@pytest.mark.parametrize("function", [F.max_pool2d, F.avg_pool2d], ids=["max_pool2d", "avg_pool2d"])
def test_pool_padding_beyond_half_the_kernel(function: Any) -> None:
    with pytest.raises(RuntimeError, match="at most half"):
        function(torch.ones(1, 1, 5, 5), 3, 1, 2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_scripting_of_hooks() -> None:
    class Hook:
        def __call__(self, module: nn.Module, inputs: Any) -> None:
            pass

    module = nn.ReLU()
    module.register_forward_pre_hook(Hook())
    with pytest.raises(AttributeError, match="__name__"):
        torch.jit.script(module)


def test_fused_optimizers_ignore_strides() -> None:
    def step(layout: torch.memory_format) -> torch.Tensor:
        weight = nn.Parameter(torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last))
        optimizer = torch.optim.SGD([weight], 0.1, 0.9, fused=True)
        momentum = torch.arange(24.0).reshape(weight.shape).to(memory_format=layout)
        optimizer.state[weight] = {"momentum_buffer": momentum}
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        return weight.detach()

    assert not torch.equal(step(torch.contiguous_format), step(torch.channels_last)), "equal values, laid out otherwise"


def test_compiled_modules_ignore_new_hooks() -> None:
    module, seen = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []
    compiled = torch.compile(module, backend="eager")
    compiled(torch.ones(1, 2))
    module[0].register_forward_hook(lambda *inside: seen.append(inside))
    compiled(torch.ones(1, 2))
    assert not seen


def test_dropout_from_the_global_generator() -> None:
    assert "generator" in inspect.signature(nn.init.normal_).parameters
    for dropout in (F.dropout, nn.Dropout.__init__):
        assert "generator" not in inspect.signature(dropout).parameters


def test_nesterov_without_momentum() -> None:
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum"):
        torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1, momentum=0.0, nesterov=True)


FULL_DISK = """
import resource, sys, torch
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
program = torch.export.export(torch.nn.ReLU(), (torch.ones(1),))
try:
    torch.export.save(program, sys.argv[1])
except RuntimeError as error:
    assert "space" not in str(error) and "File too large" not in str(error)
    print("caught", flush=True)
"""


def test_full_disk_while_exporting(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system has no limits on files")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path / "a.pt2"], capture_output=True, check=False)
    assert done.stdout == b"caught\n"
    assert b"terminate called" in done.stderr
    assert done.returncode < 0, "a signal ended it, though the error was caught"


def test_short_floats_on_gpus() -> None:
    done = [sys.executable, "-c", "import torch; print(torch.backends.cudnn.allow_tf32)"]
    assert subprocess.run(done, capture_output=True, text=True, check=True).stdout == "True\n", (
        "unless it is turned off"
    )


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="there is no Apple GPU here")
def test_float64_on_apple_gpus() -> None:
    with pytest.raises(TypeError, match="float64"):
        torch.ones(1, dtype=torch.float64, device="mps")
