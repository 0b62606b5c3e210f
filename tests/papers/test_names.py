"""The names of every weight, as they stand in the files of golden/: saved models rely on them, so renaming breaks them.

A line is a path and its roles. A variant without a file of its own has the names of the default.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from imori.catalogue import CATALOGUE, list_models, model, size_of, variants
from imori.shapes import walk
from imori.tree import Chain, Concat, Sum, Tree

GOLDEN = Path(__file__).parent / "golden"
BUILT = [(name, variant) for name in list_models() for variant in variants(name)]


def golden(name: str, variant: str) -> Path:
    own = GOLDEN / f"{name}-{variant}.txt"
    return own if own.exists() else GOLDEN / f"{name}.txt"


@pytest.mark.parametrize(("name", "variant"), BUILT, ids=map("-".join, BUILT))
def test_weights_keep_their_names(name: str, variant: str) -> None:
    size = size_of(name)
    nodes = walk(model(name, variant=variant), (3, size, size))
    found = [" ".join([node.path, *node.weights]) for node in nodes if node.weights]
    assert found == golden(name, variant).read_text(encoding="utf-8").splitlines()


def test_no_golden_list_is_left_over() -> None:
    assert {golden(*built) for built in BUILT} == set(GOLDEN.iterdir())


@pytest.mark.parametrize(("name", "variant"), BUILT, ids=map("-".join, BUILT))
def test_papers_name_all_but_numbered_blocks_and_the_relu_after_them(name: str, variant: str) -> None:
    unnamed = {type(child).__name__ for child in without_a_name(model(name, variant=variant))}
    assert unnamed <= {"Sum", "Concat", "ReLU"}


def without_a_name(tree: Tree) -> Iterator[Tree]:
    if isinstance(tree, Chain | Sum | Concat):
        for name, child in tree.children:
            yield from [child] * (name is None)
            yield from without_a_name(child)


def test_a_paper_fits_on_a_screen_and_a_half() -> None:
    files = [Path(importlib.import_module(f"imori.papers.{name}").__file__ or "") for name in papers()]
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert max(lengths.values()) <= 90, lengths


def papers() -> set[str]:
    """The files of the papers, as the catalogue names them."""
    return {entry.function.partition(":")[0] for entry in CATALOGUE.values()}
