"""Training: a recipe, one loop for every framework, and the directory that a run leaves."""

from imori.train.main import train
from imori.train.recipe import Recipe, read_recipe
from imori.train.run import Run, find_run

__all__ = ["Recipe", "Run", "find_run", "read_recipe", "train"]
