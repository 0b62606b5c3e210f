"""Several models in one model.safetensors: an ensemble, whose probabilities are averaged where it answers.

A mean of softmaxes is no layer of a tree, and its members may differ in size and preprocessing, so they stand side by
side. The tensors of the first member are called "0/conv1.weight" and so on; the metadata hold `imori`, the format's
number, and `ensemble`: a list of what each member's own file says of itself. So it is in a file of ONNX too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from imori.errors import WeightsError
from imori.shapes import resolve
from imori.weights.file import ENSEMBLE, FORMAT, Card, card_of, fitting, network_of, opened, save_tensors
from imori.weights.names import Weights, check


def save_members(path: Path, members: Sequence[tuple[Weights, Card]]) -> None:
    """Writes two models or more into one file. WeightsError if weights, classes and tree are not of one network."""
    tensors: Weights = {}
    for i, (weights, card) in enumerate(members):
        check(weights, network_of(card, str(path)), f"the weights to save of member {i}")
        tensors |= {f"{i}/{name}": value for name, value in weights.items()}
    save_tensors(path, tensors, metadata_of([card for _, card in members]))


def metadata_of(cards: Sequence[Card]) -> dict[str, str]:
    """What a file of these members says of itself."""
    said = [card.metadata() for card in cards]
    return {"imori": FORMAT, ENSEMBLE: json.dumps(said, ensure_ascii=False, sort_keys=True)}


def is_ensemble(path: Path) -> bool:
    """Whether a file is a .safetensors of several models; its weights are not read."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return False
    with opened(path) as file:
        return ENSEMBLE in (file.metadata() or {})


def members_of(path: Path, tensors: Weights, metadata: Mapping[str, str]) -> list[tuple[Weights, Card]]:
    """The members of an ensemble's file, each checked against its own tree. WeightsError for a damaged one."""
    try:
        said = json.loads(metadata[ENSEMBLE])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its metadata are damaged: {error}") from error
    texts = isinstance(said, list) and all(isinstance(each, dict) for each in said)
    if not texts or len(said) < 2 or not all(isinstance(text, str) for each in said for text in each.values()):
        raise WeightsError(f"{path}: its metadata are damaged: it names no two members or more")
    own: list[Weights] = [{} for _ in said]
    for name, value in tensors.items():
        number, _, rest = name.partition("/")
        if number not in map(str, range(len(own))):
            raise WeightsError(f"{path}: {name} is of none of its {len(own)} members; the file is damaged")
        own[int(number)][rest] = value
    cards = [card_of(path, each) for each in said]
    return [(fitting(mine, resolve(card.tree, card.input), path), card) for mine, card in zip(own, cards, strict=True)]
