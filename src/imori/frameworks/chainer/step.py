"""One step of training in Chainer, with the optimizers of `imori.optimizers`: some of Chainer's own differ."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from imori.errors import ImoriError
from imori.frameworks.base import Array, Memory, Setup, Weights, check_setup, times
from imori.frameworks.chainer.links import Dropout, Variable, head_weights, walk
from imori.frameworks.chainer.shims import F, L, chainer
from imori.frameworks.chainer.weights import arrays, as_array, as_variable, canonical, dtype_of, places, running
from imori.shapes import Shape


class ChainerStep:
    """Changes the model in place: `base.Step`. The gradients that its parameters hold stay as they are."""

    def __init__(self, native: chainer.Link, setup: Setup) -> None:
        own, links = arrays(native), dict(walk(native))
        check_setup("chainer", setup, list(own), dtype_of(native))
        self._native = native
        self._trained = {name: place for name, place in places(native).items() if name in setup.trainable}
        self._frozen = [links[path] for path in setup.frozen]
        self._dropouts = [link for link in links.values() if isinstance(link, Dropout)]
        self._statistics = [array for name, array in own.items() if name.rpartition(".")[2] in ("mean", "var")]
        self._loss_weights = (1.0, *head_weights(native))
        self._memory = Memory(setup, {name: own[name] for name in self._trained}, native.xp)

    def __call__(self, images: Array, targets: Array, weights: Array, rate: float, key: int) -> tuple[float, Array]:
        """The loss before the step, and the logits that gave it. A loss that is not finite changes nothing.

        ImoriError where a batch norm gets a single value a channel.
        """
        x, soft, importance = (as_variable(self._native, array) for array in (images, targets, weights))
        share = importance / (float(importance.array.sum()) or 1.0)
        statistics = [array.copy() for array in self._statistics]
        with running(self._native, train=True):
            outputs = self._forward(x, key)
            losses = [
                -weight * F.sum(F.sum(soft * F.log_softmax(logits), axis=1) * share)
                for logits, weight in zip(outputs, self._loss_weights, strict=True)
            ]
            loss = functools.reduce(operator.add, losses)
            value = float(loss.array)
            if math.isfinite(value):
                self._memory.update(self._gradients(loss), float(rate))
            else:
                for array, before in zip(self._statistics, statistics, strict=True):
                    array[...] = before
        return value, as_array(outputs[0].array)

    def _forward(self, x: Variable, key: int) -> tuple[Variable, ...]:
        """The logits, then those of each auxiliary head."""
        with _BatchNorms(self._frozen, x.shape), _drawing(self._dropouts, key):
            outputs = self._native(x)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _gradients(self, loss: Variable) -> Weights:
        """Those of what trains, and no others, in canonical layout."""
        parameters = [getattr(link, attribute) for link, attribute in self._trained.values()]
        gradients = chainer.grad([loss], parameters)
        return {
            name: canonical(link, gradient.array)
            for (name, (link, _)), gradient in zip(self._trained.items(), gradients, strict=True)
        }

    def state(self) -> Weights:
        """Copies of the optimizer's memory."""
        return {name: as_array(array) for name, array in self._memory.state().items()}

    def restore(self, state: Weights) -> None:
        """Goes on from a state of any framework; WeightsError if it is of other weights or another optimizer."""
        self._memory.restore(state)


class _BatchNorms(chainer.LinkHook):
    """Inside a step, the frozen batch norms run as at inference, and the others refuse a single value a channel."""

    name = "imori.batch_norms"

    def __init__(self, frozen: Sequence[chainer.Link], images: Shape) -> None:
        self.frozen, self.images = frozen, images

    def forward_preprocess(self, args: Any) -> None:
        """ImoriError for the single value."""
        if not isinstance(args.link, L.BatchNormalization):
            return
        (x,) = args.args
        if any(args.link is link for link in self.frozen):
            chainer.config.train = False
        elif x.size == x.shape[1]:
            raise ImoriError(
                f"a batch norm cannot train on one value a channel, and a batch of {self.images[0]} images"
                f" {times(self.images[1:])} leaves it no more; use a larger batch, or larger images"
            )

    def forward_postprocess(self, args: Any) -> None:
        """The rest goes on training."""
        chainer.config.train = True


@contextlib.contextmanager
def _drawing(dropouts: Sequence[Dropout], key: int) -> Iterator[None]:
    """Inside, dropout is drawn from `key` alone, and Chainer's own random numbers are left alone."""
    rng = np.random.default_rng(key)
    try:
        for link in dropouts:
            link.rng = rng
        yield
    finally:
        for link in dropouts:
            link.rng = None
