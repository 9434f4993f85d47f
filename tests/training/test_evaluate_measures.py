"""The figures against scikit-learn's and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from pacs_node.training import measures

RNG = np.random.default_rng(3)
LABELS = RNG.random(200) < 0.3
# One decimal: many ties.
PROBABILITIES: NDArray[np.float64] = np.clip(np.round(RNG.normal(0.4, 0.2, 200) + 0.25 * LABELS, 1), 0, 1)
WEIGHTS = RNG.integers(0, 3, (5, 200)).astype(float)


def test_each_draw_is_what_scikit_learn_says_of_it() -> None:
    ranks = measures.ranking(LABELS, PROBABILITIES, WEIGHTS)
    scores = measures.calibration(LABELS, PROBABILITIES, WEIGHTS)
    called = PROBABILITIES >= 0.5
    rates = measures.rates(LABELS, called, WEIGHTS)
    for draw, weights in enumerate(WEIGHTS):
        auc = roc_auc_score(LABELS, PROBABILITIES, sample_weight=weights)
        assert ranks["auc"][draw] == pytest.approx(auc)
        precision = average_precision_score(LABELS, PROBABILITIES, sample_weight=weights)
        assert ranks["average_precision"][draw] == pytest.approx(precision)
        brier = brier_score_loss(LABELS, PROBABILITIES, sample_weight=weights)
        assert scores["brier"][draw] == pytest.approx(brier)
        fallout, sensitivity, _ = roc_curve(
            LABELS, PROBABILITIES, sample_weight=weights, drop_intermediate=False
        )
        assert ranks["sensitivity_at_specificity"][draw] == pytest.approx(sensitivity[fallout <= 0.2].max())
        assert ranks["specificity_at_sensitivity"][draw] == pytest.approx(
            1 - fallout[sensitivity >= 0.9].min()
        )
        of_negative, of_positive = zip(
            *precision_recall_fscore_support(LABELS, called, sample_weight=weights)[:3], strict=True
        )
        assert of_positive == pytest.approx([rates[n][draw] for n in ("precision", "sensitivity", "f1")])
        assert of_negative[1] == pytest.approx(rates["specificity"][draw])
        assert rates["accuracy"][draw] == pytest.approx(np.average(called == LABELS, weights=weights))


def test_calibration_by_hand() -> None:
    labels = np.array([0, 1, 1, 1], bool)
    probabilities = np.array([0.05, 0.05, 0.75, 1.0])
    ece = measures.calibration(labels, probabilities, np.ones((1, 4)))["ece"]
    # Half of the images lie 0.45 off, a quarter 0.25, a quarter 0.
    assert ece == pytest.approx([0.5 * 0.45 + 0.25 * 0.25])
    bins = measures.reliability(labels, probabilities, np.arange(4).astype(str))
    assert [(one.images, one.probability) for one in bins] == [(2, 0.05), (1, 0.75), (1, 1.0)]


def test_the_bootstrap_draws_groups() -> None:
    values = np.repeat([0.0, 1.0] * 10, 50)
    groups = np.repeat(np.arange(20), 50).astype(str)
    by_group = measures.means({"mean": values}, groups)["mean"]
    alone = measures.means({"mean": values}, np.arange(1000).astype(str))["mean"]
    # Standard error of a half of 20 draws: 0.11; of 1000: 0.016.
    assert (by_group.low, by_group.high) == pytest.approx((0.28, 0.72), abs=0.05)
    assert (alone.low, alone.high) == pytest.approx((0.47, 0.53), abs=0.01)
    assert by_group.value == 0.5
    assert measures.means({"mean": values}, groups)["mean"] == by_group


def test_what_is_not_defined_is_left_out() -> None:
    groups = np.arange(6).astype(str)
    labels, probabilities = np.array([1, 0, 0, 0, 0, 0], bool), np.linspace(0.6, 0.1, 6)
    at = measures.operation(labels, probabilities, groups, 0.7)
    assert at.precision is None
    assert at.sensitivity is not None
    assert at.sensitivity.value == 0
    assert (at.false_negatives, at.true_negatives) == (1, 5)
    # A third of the draws have no positive image, and no AUC.
    auc = measures.bootstrap(lambda w: measures.ranking(labels, probabilities, w), groups)["auc"]
    assert auc is not None
    assert (auc.value, auc.low, auc.high) == (1, 1, 1)


def test_small_subgroups_have_no_figures() -> None:
    labels = np.arange(40) < 12
    probabilities = np.linspace(1, 0, 40)
    groups = np.arange(40).astype(str)
    refused = (np.arange(40) % 10 == 0).astype(np.float64)
    everyone = np.ones(40, bool)
    whole = measures.subgroup("side", "left", everyone, labels, probabilities, refused, groups, 0.5)
    assert whole.refused is not None
    assert whole.refused.value == 0.1
    assert whole.auc is not None
    assert whole.specificity is not None
    unknown = np.full(40, np.nan)
    few = measures.subgroup("side", "left", np.arange(40) < 20, labels, probabilities, unknown, groups, 0.5)
    assert few.refused is None
    assert (few.images, few.positives) == (20, 12)
    assert few.sensitivity is not None
    assert few.specificity is None
    assert few.auc is None
