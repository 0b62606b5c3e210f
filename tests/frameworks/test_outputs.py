"""The outputs of a model's nodes at inference, in every framework."""

from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori import tree as t
from imori.errors import ImoriError, NameUnknown
from imori.frameworks.base import Array, Weights
from imori.weights import initial_weights

SHAPE = (3, 9, 12)
NET = t.Chain(
    stem=t.Chain(conv=t.Conv(4, 3, stride=2), relu=t.ReLU()),
    aux=t.Aux(t.Chain(flatten=t.Flatten(), fc=t.Linear(5)), 0.3),
    block=t.Sum(body=t.Chain(conv=t.Conv(4, 3, pad=1), bn=t.BatchNorm()), shortcut=t.Identity()),
    relu=t.ReLU(),
    mix=t.Concat(t.Conv(2, 1), t.Chain(inner=t.Aux(t.Chain(g=t.GlobalAvgPool(), fc=t.Linear(5))), drop=t.Dropout(0.9))),
    gap=t.GlobalAvgPool(),
    fc=t.Linear(5),
)
PATHS = ["block", "stem.conv", "", "stem", "block.shortcut", "relu", "mix.0", "mix", "mix.1", "gap", "block.body.bn"]


def weights_of(tree: t.Tree, dtype: str = "float64") -> Weights:
    rng = np.random.default_rng(7)
    return {
        name: (rng.uniform(0.5, 1.5, value.shape) if name.endswith("var") else rng.standard_normal(value.shape)).astype(
            dtype
        )
        for name, value in initial_weights(tree, SHAPE, dtype="float64").items()
    }


def images(count: int = 2) -> Array:
    return np.random.default_rng(8).standard_normal((count, *SHAPE))


def off(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def built(name: str, tree: t.Tree = NET) -> Any:
    return imori.build(tree, SHAPE, name, weights_of(tree, finest(name)))


def finest(name: str) -> str:
    """The dtype in which a framework is most exact."""
    return frameworks.get(name).DTYPES[-1]


def reference(weights: Weights, batch: Array) -> dict[str, Array]:
    """What the nodes give, by PyTorch's functions alone."""
    import torch

    w = {name: torch.tensor(value) for name, value in weights.items()}
    f = torch.nn.functional
    out = {"stem.conv": f.conv2d(torch.tensor(batch), w["stem.conv.weight"], w["stem.conv.bias"], stride=2)}
    out["stem"] = out["block.shortcut"] = f.relu(out["stem.conv"])
    conv = f.conv2d(out["stem"], w["block.body.conv.weight"], w["block.body.conv.bias"], padding=1)
    bn = (w[f"block.body.bn.{role}"] for role in ("mean", "var", "weight", "bias"))
    out["block.body.bn"] = f.batch_norm(conv, *bn)
    out["block"] = out["block.body.bn"] + out["stem"]
    out["relu"] = out["mix.1"] = f.relu(out["block"])
    out["mix.0"] = f.conv2d(out["relu"], w["mix.0.weight"], w["mix.0.bias"])
    out["mix"] = torch.cat([out["mix.0"], out["mix.1"]], 1)
    out["gap"] = out["mix"].mean((2, 3))
    out[""] = f.linear(out["gap"], w["fc.weight"], w["fc.bias"])
    return {path: value.numpy() for path, value in out.items()}


def test_outputs_are_those_of_the_nodes(framework: str) -> None:
    batch = images()
    found = imori.outputs(built(framework), batch, PATHS)
    assert list(found) == PATHS
    together = framework in ("torch", "numpy", "onnx")  # another framework keeps to a process without PyTorch
    expected = reference(weights_of(NET), batch) if together else imori.outputs(built("numpy"), batch, PATHS)
    for path in PATHS:
        assert found[path].shape == expected[path].shape, path
        assert found[path].dtype == finest(framework), path
        assert found[path].flags.c_contiguous, path
        assert off(found[path], expected[path]) <= (1e-9 if finest(framework) == "float64" else 1e-6), path


def test_outputs_are_copies_and_leave_the_model_as_it_was(framework: str) -> None:
    native, batch = built(framework), images()
    kept, before = batch.copy(), imori.logits(native, batch)
    found = imori.outputs(native, batch, ["block.shortcut", "stem.relu", "block.shortcut"])
    assert list(found) == ["block.shortcut", "stem.relu"]
    np.testing.assert_array_equal(found["block.shortcut"], found["stem.relu"])
    found["block.shortcut"] += 1
    assert not np.array_equal(found["block.shortcut"], found["stem.relu"])
    np.testing.assert_array_equal(batch, kept)
    earlier = found["stem.relu"].copy()
    np.testing.assert_array_equal(imori.logits(native, batch), before)
    imori.logits(native, images(3))
    np.testing.assert_array_equal(found["stem.relu"], earlier)
    assert imori.outputs(native, batch, []) == {}


def test_a_path_that_does_not_run_is_refused_with_the_nearest(framework: str) -> None:
    native = built(framework)
    with pytest.raises(NameUnknown, match=r"'block\.body\.con'.*nearest paths are 'block\.body\.conv'"):
        imori.outputs(native, images(), ["stem", "block.body.con"])
    for head in ("aux", "aux.fc", "mix.1.inner", "mix.1.inner.fc"):
        with pytest.raises(NameUnknown, match="runs at inference"):
            imori.outputs(native, images(), [head])
    with pytest.raises(NameUnknown, match=r"must be a list of paths, as in \['stem'\]"):
        imori.outputs(native, images(), "stem")
    assert imori.outputs(native, images(), ["stem"])["stem"].shape == (2, 4, 4, 5), "nothing of a refusal remains"


def test_a_lone_layer_is_the_root(framework: str) -> None:
    native = built(framework, t.GlobalAvgPool())
    assert off(imori.outputs(native, images(), [""])[""], images().mean((2, 3))) <= 1e-6


def test_images_of_another_size_are_refused_and_nothing_remains(framework: str) -> None:
    tree = t.Chain(conv=t.Conv(2, 3), flatten=t.Flatten(), fc=t.Linear(5))
    native = built(framework, tree)
    with pytest.raises(ImoriError, match="flatten"):
        imori.outputs(native, images()[:, :, 1:], ["conv"])
    assert imori.outputs(native, images(), ["conv"])["conv"].shape == (2, 2, 7, 10)


def test_pytorchs_work_in_place_does_not_reach_what_was_captured() -> None:
    from torch import nn

    native = built("torch")
    for module in native.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    native.train()
    found = imori.outputs(native, images(), ["stem.conv", "block"])
    expected = reference(weights_of(NET), images())
    for path, value in found.items():
        assert value.min() < 0
        assert off(value, expected[path]) <= 1e-9
    assert native.training
    assert not any(module._forward_hooks for module in native.modules())


def test_numpys_layers_keep_no_hook() -> None:
    native = built("numpy")
    imori.outputs(native, images(), PATHS)
    assert all(layer.hook is None for layer in native.layers.values())


def test_a_compiled_pytorch_model_gives_its_outputs() -> None:
    import torch

    native = torch.compile(built("torch"), backend="eager")
    before = imori.logits(native, images())
    found = imori.outputs(native, images(), ["block", ""])
    assert off(found[""], before) <= 1e-9
    assert found["block"].shape == (2, 4, 4, 5)
