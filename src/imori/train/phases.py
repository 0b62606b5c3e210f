"""Training from weights in two phases: a head on the features that the rest gives, and then fine-tuning.

Bottleneck features are those of Donahue et al., "DeCAF", 2014 (arXiv:1310.1531); that fine-tuning from a trained head
and at lower rates below distorts the features less is shown by Kumar et al. 2022 (arXiv:2202.10054).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from imori import frameworks
from imori import tree as t
from imori.data import Augmentation, Images, Preprocessing, Splits
from imori.frameworks.base import Weights, times
from imori.shapes import Shape, resolve
from imori.train.head import HeadTrainer, Labelled, TrainedHead
from imori.train.jobs import Machine, augmentation_of, class_weights
from imori.train.loop import Interrupted
from imori.train.recipe import Recipe
from imori.train.run import Progress, Run, metrics_of
from imori.transfer import Extractor, Parts, parted, with_mlp
from imori.weights import Card, shapes_of


@dataclass(frozen=True)
class FirstPhase:
    """The network of a recipe as the first phase has it: with its new head, and cut before that."""

    recipe: Recipe
    tree: t.Tree
    shape: Shape
    parts: Parts
    weights: Weights
    """Of the whole network; the head's are those that it starts from."""
    preprocessing: Preprocessing
    machine: Machine

    @functools.cached_property
    def extractor(self) -> Extractor:
        """What gives features."""
        recipe, machine = self.recipe, self.machine
        assert recipe.framework is not None
        return Extractor(
            self.parts, self.weights, self.shape, self.preprocessing, recipe.framework, recipe.precision,
            frameworks.get(recipe.framework).device(machine.device), recipe.engine, machine.workers,
            machine.report.features,
        )  # fmt: skip

    @functools.cached_property
    def trainer(self) -> HeadTrainer:
        """What trains heads."""
        return HeadTrainer(self.recipe, self.parts.head, self.parts.shape, self.weights, self.extractor.device)

    def labelled(self, images: Images, training: bool = False) -> Labelled:
        """The features of images, and where they are to train, of the augmented ones too."""
        drawn = [augmentation_of(self.recipe)] * self.recipe.feature_passes if training else []
        passes = [
            self.extractor.features(images, augmentation, number, self.recipe.seed)
            for number, augmentation in enumerate([Augmentation(), *drawn])
        ]
        return Labelled(passes, images.labels)

    def trained(self, splits: Splits) -> TrainedHead:
        """The head of the training photos, chosen on the validation photos."""
        weights = class_weights(self.recipe, splits.train)
        head = self.trainer.train(self.labelled(splits.train, True), self.labelled(splits.val), weights)
        best = head.best
        self.machine.report.note(
            f"the head, {self.recipe.head}: {100 * best['val_accuracy']:.2f} % of the validation photos, at epoch"
            f" {best['epoch']} of {len(head.rows)}"
        )
        return head

    def with_head(self, head: Weights) -> Weights:
        """The whole network's weights, with those of a trained head."""
        return self.weights | head


def first_phase(
    recipe: Recipe, tree: t.Tree, shape: Shape, weights: Weights, anew: bool, how: Preprocessing, machine: Machine
) -> FirstPhase:
    """The network with the head that the recipe asks for; with `anew` it starts from the seed."""
    parts = parted(tree, shape)
    if recipe.head == "mlp":
        tree, parts = with_mlp(tree), replace(parts, head=with_mlp(parts.head))
    if anew or recipe.head == "mlp":
        weights = weights | parts.start(recipe.seed, recipe.precision)
    weights = {name: weights[name].astype(recipe.precision, copy=False) for name in shapes_of(resolve(tree, shape))}
    machine.report.note(f"features are the output of {parts.cut}, {times(parts.output)} numbers a photo")
    return FirstPhase(recipe, tree, shape, parts, weights, how, machine)


@contextlib.contextmanager
def kept_if_stopped() -> Iterator[None]:
    """Inside, Ctrl-C says that nothing was lost but seconds."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "stopped before fine-tuning; the features of the photos so far are kept, and the same command goes on"
        ) from stop


def begin(run: Run, progress: Progress, head: TrainedHead, weights: Weights, card: Card) -> None:
    """Writes the trained head into the run, which fine-tuning has to better."""
    progress.rows.extend(head.rows)
    progress.best = (head.best["val_accuracy"], -head.best["val_loss"])
    run.save_best(weights, replace(card, metrics=metrics_of(head.best)))


def finish(run: Run, progress: Progress, phase: FirstPhase, head: TrainedHead, card: Card, test: Images | None) -> None:
    """Ends a run that is of the first phase alone: the test photos are read once, as features too."""
    weights = phase.with_head(head.weights)
    if test is not None:
        tally = phase.trainer.tally(phase.labelled(test), len(card.classes), head.weights)
        tested = {"test_loss": tally.loss, "test_accuracy": tally.accuracy, "test_images": tally.images}
        run.save_best(weights, replace(card, metrics=metrics_of(head.best) | tested))
    progress.finished = True
    run.save_last(weights, {}, progress, card)
