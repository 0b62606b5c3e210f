"""Folds of a labelled set: each class alike in every fold, and photos that belong together in one."""

from __future__ import annotations

import numpy as np

from imori.data.images import Array


def folds(labels: Array, groups: Array, count: int, seed: int) -> Array:
    """int64 (N,): the fold, from 0 to `count` - 1, of each photo; all photos of a group are in the same one.

    Groups are dealt in an order drawn from the seed, the large ones first: each to a fold that has the fewest photos of
    its classes, and among those to the smallest.
    """
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    drawn = np.random.default_rng(seed).permutation(len(members))
    assigned = np.zeros(len(labels), np.int64)
    held = np.zeros((count, int(labels.max(initial=0)) + 1), np.int64)
    for number in sorted(drawn.tolist(), key=lambda number: -len(members[number])):
        own = np.bincount(labels[members[number]], minlength=held.shape[1])
        fold = int(np.lexsort((held.sum(axis=1), held @ own))[0])
        held[fold] += own
        assigned[members[number]] = fold
    return assigned
