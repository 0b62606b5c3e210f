"""Dropout, of which each worker has its own images' part of one mask."""

from __future__ import annotations

from imori.engine import dropout as plain
from imori.engine.fast.team import Shared
from imori.engine.layer import Array, Shape


class Dropout(Shared, plain.Dropout):
    """The plain layer: the mask is drawn for the whole batch, as it is there, by the worker that comes first.

    Layers are met in one order by all workers, so that it does not matter which of them that is.
    """

    def draw(self, shape: Shape) -> Array:
        """Which values stay."""
        if self.member is None:
            return super().draw(shape)
        whole = (shape[0], self.member.batch, *shape[2:])
        mask = self.member.team.draw(id(self.weights), lambda: super(Dropout, self).draw(whole))
        return mask[:, self.member.images]
