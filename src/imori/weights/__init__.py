"""Weights: a flat dictionary of arrays under canonical names (path + role), in canonical layouts.

Layouts: convolutions (out, in / groups, height, width), transposed ones (in, out / groups, height, width), dense layers
(out, in) with `in` in channel, height, width order. Roles: weight, bias, and a batch norm's mean and var.
"""

from imori.weights.ensemble import save_members
from imori.weights.file import Card, read_card, save_model
from imori.weights.names import check, initial_weights, restrict, shapes_of
from imori.weights.reading import read_members, read_model, read_weights

__all__ = [
    "Card",
    "check",
    "initial_weights",
    "read_card",
    "read_members",
    "read_model",
    "read_weights",
    "restrict",
    "save_members",
    "save_model",
    "shapes_of",
]
