import numpy as np
import pytest

from imori.train.metrics import Tally, averaged, per_class, soft_targets, softmax


def test_soft_targets_spread_the_smoothing_over_all_classes() -> None:
    targets = soft_targets(np.array([2, 0]), 4, 0.2, "float64")
    assert targets == pytest.approx(np.array([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]))
    assert soft_targets(np.array([1]), 3, 0.0).tolist() == [[0, 1, 0]]


def test_averaged_logits_have_the_mean_of_the_probabilities() -> None:
    several = np.random.default_rng(8).standard_normal((3, 5, 4)).astype(np.float32) * 10
    several[0, 0, 1] = 2000  # so sure that the others' probabilities are 0 in float64
    assert np.allclose(softmax(averaged(several)), np.mean([softmax(each) for each in several], axis=0), atol=1e-12)
    assert np.array_equal(averaged([several[0]]), several[0]), "one is as it was"


def test_a_tally_agrees_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    logits, labels = rng.standard_normal((90, 7)).astype(np.float32), rng.integers(0, 7, 90)
    tally = Tally(7)
    for part in (slice(0, 40), slice(40, 90)):
        tally.add(logits[part], labels[part], np.full(len(labels[part]), 0.5))
    answers = logits.argmax(axis=1)
    assert tally.images == 90
    assert tally.accuracy == pytest.approx(sklearn.accuracy_score(labels, answers))
    assert tally.top5 == pytest.approx(sklearn.top_k_accuracy_score(labels, logits, k=5, labels=range(7)))
    assert tally.loss == pytest.approx(sklearn.log_loss(labels, softmax(logits), labels=range(7)))
    assert (tally.confusion == sklearn.confusion_matrix(labels, answers)).all()
    precision, recall, _, support = sklearn.precision_recall_fscore_support(labels, answers)
    for i, one in enumerate(per_class(tally.confusion, [f"c{i}" for i in range(7)])):
        assert (one.name, one.images) == (f"c{i}", support[i])
        assert (one.precision, one.recall) == pytest.approx((precision[i], recall[i]))


def test_padding_counts_as_nothing() -> None:
    tally = Tally(3)
    tally.add(np.array([[3.0, 1, 2], [0, 5, 1]]), np.array([0, 0]), np.array([1.0, 0.0]))
    assert (tally.images, tally.accuracy) == (1, 1.0)


def test_a_class_without_answers_or_images_has_no_precision_or_recall() -> None:
    scores = per_class(np.array([[2, 1], [0, 0]]), ("cat", "dog"))
    assert (scores[1].precision, scores[1].recall) == (0.0, None)
    assert per_class(np.array([[2, 0], [1, 0]]), ("cat", "dog"))[1].precision is None


def test_softmax_of_huge_logits_is_finite() -> None:
    assert softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])) == pytest.approx(np.array([[1, 0], [0.5, 0.5]]))
