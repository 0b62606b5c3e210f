"""The module that comes out: its names, its weights, its modes and sizes, and its life without imori around it."""

import copy
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

import imori
from imori import frameworks
from imori.errors import ImoriError, TreeError, WeightsError
from imori.frameworks import base
from imori.frameworks import torch as framework
from imori.frameworks.base import Setup
from imori.frameworks.torch.layers import Combinator, head_weights
from imori.frameworks.torch.weights import AsImages
from imori.optimizers import SGD
from imori.shapes import Shape, resolve
from imori.tree import (
    RESERVED,
    ROLES,
    Aux,
    BatchNorm,
    Chain,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    ReLU,
    Sigmoid,
    Sum,
    Tree,
)

SHAPE = (2, 6, 7)
BLOCK = Sum(body=Chain(conv=Conv(4, 3, pad=(0, 2, 1, 1), bias=False), bn=BatchNorm()), shortcut=Identity())
NET = Chain(
    Conv(4, 3, pad=1),
    BatchNorm(),
    ReLU(),
    block=BLOCK,
    drop=Dropout(0.5),
    pool=MaxPool(2),
    flatten=Flatten(),
    fc=Linear(3),
)
TAPPED = Chain(
    conv=Conv(4, 3, pad=1),
    inner=Concat(
        a=Chain(Conv(3, 1), Aux(Chain(pool=GlobalAvgPool(), fc=Linear(3)), 0.2), ReLU()),
        side=Aux(Chain(flatten=Flatten(), fc=Linear(3)), 0.3),
        b=Identity(),
    ),
    pool=GlobalAvgPool(),
    last=Aux(Linear(3), 0.4),
    fc=Linear(3),
)


def random_images(shape: Shape = SHAPE, count: int = 3, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, *shape))


def build(tree: Tree = NET, shape: Shape = SHAPE, dtype: str = "float64") -> Any:
    """With every weight random."""
    native = imori.build(tree, shape, "torch", dtype=dtype)
    rng = np.random.default_rng(2)
    framework.load(native, {name: rng.uniform(0.2, 1, value.shape) for name, value in framework.dump(native).items()})
    return native


# --- names and weights ------------------------------------------------------------------------------------------------


def test_the_state_dict_reads_as_the_canonical_names() -> None:
    native = build()
    assert type(native) is nn.Sequential
    assert list(native.state_dict()) == [
        *("0.weight", "0.bias"),
        *("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"),
        "block.body.conv.weight",
        *(f"block.body.bn.{role}" for role in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        *("fc.weight", "fc.bias"),
    ]
    assert [name for name, _ in native.named_parameters()] == [name for name in native.state_dict() if "_" not in name]
    assert isinstance(native.block.body.conv, nn.Conv2d)
    assert isinstance(native[1], nn.BatchNorm2d)
    assert "block.body.bn.mean" in imori.dump_weights(native)


@pytest.mark.parametrize("tree", [NET, TAPPED], ids=["net", "heads"])
def test_dump_has_the_canonical_names_and_comes_back(tree: Tree) -> None:
    native = build(tree)
    weights = imori.dump_weights(native)
    assert list(weights) == list(imori.initial_weights(tree, SHAPE))
    again = imori.build(tree, SHAPE, "torch", weights)
    for name, value in imori.dump_weights(again).items():
        np.testing.assert_array_equal(value, weights[name])
    np.testing.assert_array_equal(imori.logits(again, random_images()), imori.logits(native, random_images()))


def test_dump_gives_copies_and_load_fills_the_same_tensors() -> None:
    native = build()
    parameter, images = native.fc.weight, random_images()
    weights, logits = imori.dump_weights(native), imori.logits(native, images)
    imori.dump_weights(native)["fc.weight"][:] = 7
    np.testing.assert_array_equal(imori.dump_weights(native)["fc.weight"], weights["fc.weight"])
    for value in weights.values():
        value.flags.writeable = False
    framework.load(native, {name: value * 2 for name, value in weights.items()})
    assert native.fc.weight is parameter
    np.testing.assert_array_equal(parameter.detach().numpy(), weights["fc.weight"] * 2)
    framework.load(native, weights)
    np.testing.assert_array_equal(imori.logits(native, images), logits)


def test_load_lists_all_that_does_not_fit_and_changes_nothing() -> None:
    native = build()
    weights = imori.dump_weights(native)
    wrong = {**weights, "fc2.weight": weights["fc.weight"], "0.bias": weights["0.bias"][:2]}
    del wrong["1.mean"]
    with pytest.raises(WeightsError) as error:
        framework.load(native, {name: value * 2 for name, value in wrong.items()})
    for part in ("missing: 1.mean", "unexpected: fc2.weight", "misshaped: 0.bias is 2 and must be 4"):
        assert part in str(error.value)
    np.testing.assert_array_equal(imori.dump_weights(native)["fc.bias"], weights["fc.bias"])


def test_building_draws_no_random_numbers_and_allocates_once() -> None:
    before = torch.get_rng_state()
    native = imori.build(NET, SHAPE, "torch")
    assert torch.equal(torch.get_rng_state(), before)
    assert {tensor.device.type for tensor in native.state_dict().values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in native.parameters())
    assert native.training


def test_names_hide_no_attribute_of_a_module() -> None:
    made = (nn.Sequential(), Combinator({}, {}))
    names = {name for module in made for name in dir(module) if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)}
    assert names - RESERVED - set(ROLES) == set()


def test_a_lone_aux_is_no_network() -> None:
    with pytest.raises(TreeError, match="put it into a Chain"):
        imori.build(Aux(Chain(GlobalAvgPool(), Linear(2))), SHAPE, "torch")


# --- running ----------------------------------------------------------------------------------------------------------


def test_logits_leave_the_modes_as_they_were() -> None:
    native = build()
    native.block.eval()
    native.drop.train()
    modes = [module.training for module in native.modules()]
    images = random_images()
    weights, logits = imori.dump_weights(native), imori.logits(native, images)
    assert logits.dtype == np.float64
    assert [module.training for module in native.modules()] == modes
    assert len(set(modes)) == 2
    np.testing.assert_array_equal(imori.logits(native, images), logits)  # no dropout, no statistics
    np.testing.assert_array_equal(imori.dump_weights(native)["1.mean"], weights["1.mean"])
    np.testing.assert_array_equal(native.eval()(torch.tensor(images)).detach().numpy(), logits)
    with pytest.raises(TreeError):
        imori.logits(native.train(), images[:, :1])
    assert all(module.training for module in native.modules())


def test_nothing_is_computed_in_short_floats() -> None:
    seen = []
    native = build()
    native.fc.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    allowed = torch.backends.cudnn.allow_tf32
    imori.logits(native, random_images())
    assert (seen, allowed) == ([False], torch.backends.cudnn.allow_tf32)


@pytest.mark.parametrize("name", ["cuda", "cuda:9", "mps", "gpu", "cpu:1", ""])
def test_a_device_that_is_not_here_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ImoriError, match=rf"no device '{name}' here; it has cpu"):
        framework.device(name)
    assert framework.device("auto") == framework.device("cpu") == "cpu"


def test_auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert framework.device("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert framework.device("auto") == "cuda"
    assert framework.device("cuda:1") == "cuda:1"
    with pytest.raises(ImoriError, match="cuda:2"):
        framework.device("cuda:2")


def test_mps_refuses_float64() -> None:
    root = resolve(NET, SHAPE)
    with pytest.raises(ImoriError, match="mps has no float64; use device='cpu', or dtype='float32'"):
        framework.build(root, imori.initial_weights(NET, SHAPE), "float64", "mps")


def test_another_size_is_refused_where_a_layer_depends_on_it() -> None:
    native = build()
    for training in (True, False):
        with pytest.raises(TreeError, match=r"built for images 2×6×7 .* gets 2×8×7; flatten binds it"):
            native.train(training)(torch.zeros(1, 2, 8, 7, dtype=torch.float64))
    with pytest.raises(TreeError, match=r"takes images 2×6×7 .* gets 3×6×7"):
        imori.logits(native, random_images((3, 6, 7)))
    for dtype in ("float32", "float64"):
        with pytest.raises(TreeError, match=r"in a batch, and gets 6×7"):
            imori.logits(build(dtype=dtype), random_images()[0])
    with pytest.raises(TreeError, match=r"Flatten binds it"):
        imori.logits(imori.build(Flatten(), SHAPE, "torch"), random_images((2, 5, 7)))
    free = build(Chain(conv=Conv(4, 3), pool=GlobalAvgPool(), fc=Linear(3)))
    assert imori.logits(free, random_images((2, 9, 4))).shape == (3, 3)


def test_a_map_that_is_too_small_is_refused_by_the_layers_name() -> None:
    head = Aux(Chain(conv=Conv(4, 5), pool=GlobalAvgPool(), fc=Linear(3)))
    free = build(Chain(conv=Conv(4, 3), side=head, pool=MaxPool(2), gap=GlobalAvgPool(), fc=Linear(3)), (2, 16, 16))
    small = torch.zeros(2, 2, 3, 9, dtype=torch.float64)
    sentence = (
        r"^pool: a kernel of 2×2 does not fit into its input 4×1×7 .*; this layer's input must be 2 high at least"
    )
    for _ in range(2):  # what is refused is not remembered as fitting
        with pytest.raises(TreeError, match=f"{sentence}: use larger images or a smaller kernel"):
            free.eval()(small)
    with pytest.raises(TreeError, match=r"^side\.conv: a kernel of 5×5 does not fit into its input 4×1×7 "):
        free.train()(small)
    assert free.eval()(torch.zeros(2, 2, 6, 9, dtype=torch.float64)).shape == (2, 3)


def test_sizes_that_were_seen_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    free = build(Chain(conv=Conv(4, 3), pool=GlobalAvgPool(), fc=Linear(3)))
    checked = []
    monkeypatch.setattr(base, "resolve", lambda tree, shape: checked.append(shape))
    for size in ((6, 7), (9, 4), (9, 4), (5, 5), (9, 4)):
        for count in (1, 3):
            imori.logits(free, random_images((2, *size), count))
    assert checked == [(2, 9, 4), (2, 5, 5)]


def test_a_module_can_be_pickled() -> None:
    images = random_images()
    native = build(TAPPED)
    again = pickle.loads(pickle.dumps(native))  # noqa: S301
    np.testing.assert_array_equal(imori.logits(again, images), imori.logits(native, images))


# --- auxiliary heads --------------------------------------------------------------------------------------------------


def test_heads_answer_in_training_only() -> None:
    native, images = build(TAPPED), random_images()
    x = torch.tensor(images)
    outputs = native(x)
    assert [tuple(out.shape) for out in outputs] == [(3, 3)] * 4
    assert head_weights(native) == (0.2, 0.3, 0.4)
    w = {name: torch.tensor(value) for name, value in imori.dump_weights(native).items()}
    stem = nn.functional.conv2d(x, w["conv.weight"], w["conv.bias"], padding=1)
    inner = nn.functional.conv2d(stem, w["inner.a.0.weight"], w["inner.a.0.bias"])
    joined = torch.cat([torch.relu(inner), stem, stem], 1).mean((2, 3))

    def dense(name: str, features: Tensor) -> Tensor:
        return features @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    expected = [
        dense("fc", joined),
        dense("inner.a.1.fc", inner.mean((2, 3))),
        dense("inner.side.fc", stem.flatten(1)),
        dense("last", joined),
    ]
    for out, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(out, wanted)
    np.testing.assert_allclose(imori.logits(native, images), expected[0].numpy(), rtol=1e-12)
    assert torch.is_tensor(native.eval()(x))


def test_heads_bind_no_size_at_inference() -> None:
    native = build(TAPPED)
    assert imori.logits(native, random_images((2, 9, 5))).shape == (3, 3)
    with pytest.raises(TreeError, match=r"inner\.side\.flatten binds it"):
        native(torch.tensor(random_images((2, 9, 5))))


# --- without imori around it ------------------------------------------------------------------------------------------


def test_a_module_that_was_trained_elsewhere_is_still_ours() -> None:
    native = copy.deepcopy(build())
    images = torch.tensor(random_images(count=8))
    optimizer = torch.optim.Adam(native.parameters(), lr=0.05)
    before = imori.dump_weights(native)
    for _ in range(3):
        optimizer.zero_grad()
        native(images).logsumexp(1).mean().backward()
        optimizer.step()
    after = imori.dump_weights(native)
    assert all(np.abs(after[name] - before[name]).max() > 0 for name in after)
    again = imori.build(NET, SHAPE, "torch", after)
    again.load_state_dict(native.state_dict())
    np.testing.assert_array_equal(imori.logits(again, images.numpy()), imori.logits(native, images.numpy()))


def test_any_memory_layout_does() -> None:
    native, images = build(), random_images()
    logits, weights = imori.logits(native, images), imori.dump_weights(native)
    native.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(imori.logits(native, images), logits, rtol=1e-12)
    for name, value in imori.dump_weights(native).items():
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, weights[name])


def test_narrow_and_pointwise_convolutions_get_images_channels_last() -> None:
    for tree, dtype, expected in (
        (NET, "float32", True),
        (NET, "float64", False),
        (Chain(conv=Conv(200, 2), wide=Conv(2, 3), wide2=Conv(2, 24), pool=GlobalAvgPool()), "float32", False),
        (Chain(conv=Conv(1500, 2), point=Conv(200, 1), wide=Conv(2, 3), pool=GlobalAvgPool()), "float32", True),
        (Chain(flatten=Flatten(), fc=Linear(3)), "float32", False),
    ):
        native = imori.build(tree, (2, 30, 31), "torch", dtype=dtype)
        images = random_images((2, 30, 31))
        batch = AsImages.of(native)(images)
        assert batch.is_contiguous(memory_format=torch.channels_last) == expected
        assert batch.is_contiguous() != expected
        np.testing.assert_array_equal(batch.numpy(), images.astype(dtype))
    flat = imori.build(Linear(3), (5,), "torch")
    assert imori.logits(flat, np.random.default_rng(0).standard_normal((2, 5))).shape == (2, 3)


def test_in_training_the_weights_lie_like_the_images() -> None:
    for channels, expected in ((2, True), (200, False)):
        tree = Chain(conv=Conv(200, 3), pool=GlobalAvgPool(), fc=Linear(3))
        native = imori.build(tree, (channels, 9, 9), "torch")
        assert native.conv.weight.is_contiguous(), "outside of training it is as torch makes it"
        frameworks.get("torch").prepare(native, Setup(SGD(), frozenset({"conv.weight"})))
        assert native.conv.weight.is_contiguous(memory_format=torch.channels_last) == expected
        assert native.conv.weight.is_contiguous() != expected


def test_a_relu_overwrites_only_what_nothing_else_needs() -> None:
    tree = Chain(
        ReLU(),  # the user's images
        conv=Conv(4, 3),
        relu1=ReLU(),
        relu2=ReLU(6),
        sigmoid=Sigmoid(),  # its gradient is found from its output
        relu3=ReLU(),
        block=Sum(Chain(relu=ReLU(), conv=Conv(4, 1)), Identity()),  # both branches read the input
        relu4=ReLU(6),
        body=Chain(conv=Conv(4, 1), bn=BatchNorm()),
        relu5=ReLU(),
        aux=Aux(Chain(GlobalAvgPool(), Linear(3)), 0.3),
        relu6=ReLU(),
        one=Sum(Identity()),
        relu7=ReLU(),
        pool=GlobalAvgPool(),
        fc=Linear(3),
    )
    native = imori.build(tree, (2, 9, 9), "torch")
    inplace = {name for name, module in native.named_modules() if getattr(module, "inplace", False)}
    assert inplace == {"relu1", "relu4", "relu5"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("tree", [NET, TAPPED], ids=["net", "heads"])
def test_it_compiles(tree: Tree, backend: str) -> None:
    native, images = build(tree), random_images()
    expected = imori.logits(native, images)
    compiled = torch.compile(native, backend=backend, fullgraph=True)
    assert frameworks.of(compiled) is framework
    np.testing.assert_allclose(imori.logits(compiled, images), expected, rtol=1e-12)
    assert list(imori.dump_weights(compiled)) == list(imori.dump_weights(native))
    framework.load(compiled, {name: value / 2 for name, value in imori.dump_weights(native).items()})
    assert not np.allclose(imori.logits(compiled, images), expected)
    torch.manual_seed(3)
    outputs = compiled(torch.tensor(images))
    torch.manual_seed(3)
    torch.testing.assert_close(outputs, native(torch.tensor(images)))
    torch.compiler.reset()


def exported(name: str, shape: Shape, dynamic: dict[int, Any]) -> tuple[nn.Module, nn.Module]:
    native = build(imori.model(name, 5), shape, "float32").eval()
    images = torch.tensor(random_images(shape), dtype=torch.float32)
    return native, export(native, (images,), dynamic_shapes=(dynamic,)).module()


@pytest.mark.slow
def test_it_exports_with_any_batch() -> None:
    native, program = exported("lenet", (1, 32, 32), {0: Dim("batch")})
    for count in (1, 5):
        images = torch.tensor(random_images((1, 32, 32), count), dtype=torch.float32)
        torch.testing.assert_close(program(images), native(images))
    with pytest.raises((AssertionError, RuntimeError), match="32"):
        program(torch.zeros(2, 1, 40, 32))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels"), [("resnet_mnist_plain", 1), ("resnet18", 3)])
def test_it_exports_with_any_size(name: str, channels: int) -> None:
    dynamic = {0: Dim("batch"), 2: Dim("height", min=33), 3: Dim("width", min=33)}
    native, program = exported(name, (channels, 64, 50), dynamic)
    for size in ((33, 70), (64, 51)):
        images = torch.tensor(random_images((channels, *size), 2), dtype=torch.float32)
        torch.testing.assert_close(program(images), native(images))


@pytest.mark.slow
def test_a_net_bound_to_its_size_exports_at_no_other() -> None:
    with pytest.raises(Exception, match=r"height.*(specialized|constant|32)"):
        exported("lenet", (1, 32, 32), {0: Dim("batch"), 2: Dim("height")})


@pytest.mark.parametrize(
    "wrapped",
    [
        torch.optim.swa_utils.AveragedModel,
        nn.DataParallel,
        lambda native: nn.DataParallel(torch.optim.swa_utils.AveragedModel(native)),
    ],
    ids=["averaged", "parallel", "both"],
)
def test_what_torch_wraps_is_still_ours(wrapped: Any) -> None:
    native = imori.build(imori.model("resnet_mnist_plain", classes=3), (1, 28, 28), "torch")
    images = np.random.default_rng(0).standard_normal((2, 1, 28, 28), dtype=np.float32)
    outer = wrapped(native)
    np.testing.assert_array_equal(imori.logits(outer, images), imori.logits(native, images))
    assert imori.outputs(outer, images, ["conv1"])["conv1"].shape[0] == 2
    ours = imori.dump_weights(native)
    assert list(imori.dump_weights(outer)) == list(ours)
    frameworks.get("torch").load(outer, {name: value + 1 for name, value in ours.items()})
    assert all(np.array_equal(value, ours[name] + 1) for name, value in imori.dump_weights(outer).items())


def test_bfloat16_comes_out_as_float32() -> None:
    native = imori.build(imori.model("lenet", classes=3), (1, 32, 32), "torch")
    images = np.random.default_rng(0).standard_normal((2, 1, 32, 32), dtype=np.float32)
    expected = imori.logits(native, images)
    logits = imori.logits(native.bfloat16(), images)
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - expected).max() <= 0.05 * np.abs(expected).max()
    assert {value.dtype.name for value in imori.dump_weights(native).values()} == {"float32"}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_scripting_names_what_can_be_done_instead() -> None:
    native = imori.build(imori.model("lenet", classes=3), (1, 32, 32), "torch")
    with pytest.raises(ImoriError, match=r"torch\.export\.export\(model, .*torch\.jit\.trace\(model, images"):
        torch.jit.script(native)


@pytest.mark.parametrize(("name", "size"), [("mobilenet_v2", 32), ("googlenet", 80)])
def test_threads_that_predict_do_not_disturb_each_other(name: str, size: int) -> None:
    native = imori.build(imori.model(name, classes=3), (3, size, size), "torch", seed=0)
    images = np.random.default_rng(0).standard_normal((4, 3, size, size), dtype=np.float32)
    alone, before = imori.logits(native, images), imori.dump_weights(native)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: imori.logits(native, images), range(24)))
    assert all(np.abs(one - alone).max() <= 1e-5 * np.abs(alone).max() for one in found)
    assert all(np.array_equal(before[name], value) for name, value in imori.dump_weights(native).items())
