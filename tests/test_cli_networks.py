"""`imori models`."""

import json

import pytest

import imori
from imori.cli.networks import paper


def test_models_lists_the_catalogue(command) -> None:
    answer = command("models")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()[2:-2]] == imori.list_models()
    row = next(line for line in answer.out.splitlines() if line.startswith("resnet50 "))
    assert row.split()[:6] == ["resnet50", "2015", "224", "x", "224", "25,557,032"]
    assert row.endswith("Deep residual learning for image recognition")


def test_models_takes_a_pattern(command) -> None:
    answer = command("models", "vgg*", "--json")
    rows = json.loads(answer.out)
    assert [row["name"] for row in rows] == ["vgg16", "vgg19", "vgg16_bn", "vgg19_bn"]
    assert rows[0]["parameters"] == 138_357_544
    assert rows[0]["year"] == 2014
    assert rows[0]["link"].startswith("https://arxiv.org/abs/1409.1556")


def test_models_without_a_fit_says_so(command) -> None:
    command("models", "mobil").refuses("'mobil'", "imori models")


@pytest.mark.parametrize("name", imori.list_models())
def test_every_paper_is_cited(name: str) -> None:
    source = paper(name)
    assert 1980 < source.year < 2030
    assert len(source.title) > 10
    assert source.link.startswith("http")
