"""Multiply-accumulates beside an independent count: torch's own, on the built module, at each paper's own size."""

import pytest

from imori.catalogue import list_models, model, size_of, variants
from imori.shapes import resolve, summary

torch = pytest.importorskip("torch", reason="torch is not installed")
FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode


@pytest.mark.parametrize("name", list_models())
def test_torch_counts_as_many(name: str) -> None:
    from imori.frameworks.torch.layers import module_of

    for variant in variants(name):
        shape = (3, size_of(name), size_of(name) + 13)
        tree = model(name, variant=variant)
        with torch.device("meta"):  # shapes alone: nothing is allocated or computed
            module, image = module_of(resolve(tree, shape)).eval(), torch.empty(1, *shape)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            module(image)
        assert counter.get_total_flops() == 2 * summary(tree, shape).macs, variant
