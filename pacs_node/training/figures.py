"""Figures: the curves of an evaluation, several sets of images side by side, and the randomised looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from pacs_node.training import randomize
from pacs_node.training.dataset import Sample
from pacs_node.training.evaluate import Evaluation
from pacs_node.training.model_metrics import Estimate

COLOURS = ("#1f5fa8", "#c4501b", "#3f8f4f", "#7d4fa3", "#8a6d1d", "#5b6770")
CHANCE: dict[str, Any] = {"color": "0.75", "linewidth": 0.8, "linestyle": "--", "zorder": 0}


def draw(evaluations: Sequence[Evaluation]) -> dict[str, Figure]:
    """The figures by name: roc, precision-recall, reliability, thresholds, scores, confusion."""
    figures = {}
    for name, curve in (
        ("roc", _roc),
        ("precision-recall", _precision_recall),
        ("reliability", _reliability),
    ):
        figures[name], (axes,) = _figure(1, 4.3)
        for evaluation, colour in zip(evaluations, COLOURS * len(evaluations), strict=False):
            curve(axes, evaluation, colour)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    for name, panel in (("thresholds", _thresholds), ("scores", _scores), ("confusion", _confusion)):
        figures[name], panels = _figure(len(evaluations), 3.6)
        for axes, evaluation in zip(panels, evaluations, strict=True):
            panel(axes, evaluation)
            axes.set_title(evaluation.metrics.name, fontsize=10)
    return figures


def save(folder: Path, figures: Mapping[str, Figure], kinds: Sequence[str] = ("png", "svg")) -> None:
    """Write each figure in each kind; the same figures give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "pacs-node"}):
        for name, figure in figures.items():
            for kind in kinds:
                undated = {"png": {"Software": None}, "svg": {"Date": None}}[kind]
                figure.savefig(folder / f"{name}.{kind}", dpi=110, metadata=undated)


def draw_looks(samples: Sequence[Sample], seed: int = 0, pairs: int = 4, side: float = 1.1) -> Figure:
    """Each effect on `pairs` of the marked images, plain beside varied, with the outlines."""
    rng = np.random.default_rng(seed)
    looks: dict[str, randomize.Effect] = {
        **randomize.EFFECTS,
        "all": randomize.vary,
        "unseen": randomize.unseen,
    }
    figure = Figure(figsize=(side * 2 * pairs, side * len(looks)), layout="constrained")
    FigureCanvasAgg(figure)
    marked = [sample for sample in samples if sample.marks] or list(samples)
    for row, (name, effect) in zip(figure.subplots(len(looks), 2 * pairs), looks.items(), strict=True):
        row[0].set_ylabel(name, fontsize=8)
        for pair in range(pairs):
            plain = randomize.read(marked[int(rng.integers(len(marked)))])
            for axes, scene in zip(row[2 * pair : 2 * pair + 2], (plain, effect(plain, rng)), strict=True):
                axes.imshow(scene.image, cmap="gray", vmin=0, vmax=1)
                for points in scene.outlines:
                    axes.plot(*(np.vstack([points, points[:1]]).T - 0.5), color="yellow", linewidth=0.7)
                axes.set(xticks=[], yticks=[])
    return figure


def _figure(panels: int, side: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(side * 1.05 * panels, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _roc(axes: Axes, evaluation: Evaluation, colour: str) -> None:
    metrics, at = evaluation.metrics, evaluation.metrics.operation
    RocCurveDisplay.from_predictions(  # type: ignore[no-untyped-call]
        evaluation.labels,
        evaluation.probabilities,
        ax=axes,
        curve_kwargs={"color": colour, "label": f"{metrics.name}: AUC {metrics.auc}"},
    )
    if at.specificity and at.sensitivity:
        axes.plot(1 - at.specificity.value, at.sensitivity.value, "o", color=colour)
    axes.plot([0, 1], [0, 1], **CHANCE)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _precision_recall(axes: Axes, evaluation: Evaluation, colour: str) -> None:
    metrics, at = evaluation.metrics, evaluation.metrics.operation
    PrecisionRecallDisplay.from_predictions(  # type: ignore[no-untyped-call]
        evaluation.labels,
        evaluation.probabilities,
        ax=axes,
        plot_chance_level=True,
        chance_level_kw=CHANCE | {"color": colour, "label": None},
        curve_kwargs={
            "color": colour,
            "label": f"{metrics.name}: average precision {metrics.average_precision}",
        },
    )
    if at.precision and at.sensitivity:
        axes.plot(at.sensitivity.value, at.precision.value, "o", color=colour)
    axes.set(xlabel="recall (sensitivity)", ylabel="precision")
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _reliability(axes: Axes, evaluation: Evaluation, colour: str) -> None:
    metrics = evaluation.metrics
    bins = [(each.probability, each.positive) for each in metrics.bins if each.positive]
    observed = np.array([(rate.value, rate.low, rate.high) for _, rate in bins]).reshape(-1, 3)
    value, low, high = observed.T
    axes.errorbar(
        [probability for probability, _ in bins],
        value,
        yerr=np.maximum(0, [value - low, high - value]),
        color=colour,
        marker="o",
        markersize=4,
        capsize=2,
        linewidth=1,
        label=f"{metrics.name}: ECE {metrics.ece}",
    )
    axes.plot([0, 1], [0, 1], **CHANCE)
    axes.set(xlabel="mean probability", ylabel="share of positive images")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _thresholds(axes: Axes, evaluation: Evaluation) -> None:
    for name, colour in zip(("sensitivity", "specificity", "precision"), COLOURS, strict=False):
        points: list[tuple[float, Estimate]] = [
            (operation.threshold, estimate)
            for operation in evaluation.metrics.thresholds
            if (estimate := getattr(operation, name)) is not None
        ]
        at = [threshold for threshold, _ in points]
        axes.plot(at, [estimate.value for _, estimate in points], color=colour, label=name)
        low, high = [estimate.low for _, estimate in points], [estimate.high for _, estimate in points]
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axvline(evaluation.metrics.operation.threshold, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(xlabel="threshold", ylim=(-0.01, 1.01), xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="center right")


def _scores(axes: Axes, evaluation: Evaluation) -> None:
    labels, probabilities = evaluation.labels, evaluation.probabilities
    for name, chosen, colour in (("negative", ~labels, COLOURS[0]), ("positive", labels, COLOURS[1])):
        weights = np.full(int(chosen.sum()), 1 / chosen.sum())
        axes.hist(
            probabilities[chosen],
            bins=25,
            range=(0, 1),
            weights=weights,
            color=colour,
            alpha=0.55,
            label=name,
        )
    axes.axvline(evaluation.metrics.operation.threshold, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(xlabel="probability", ylabel="share of the images of that label", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="upper center")


def _confusion(axes: Axes, evaluation: Evaluation) -> None:
    at = evaluation.metrics.operation
    cells = np.array([[at.true_negatives, at.false_positives], [at.false_negatives, at.true_positives]])
    shares = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    matrix = ConfusionMatrixDisplay(shares, display_labels=["negative", "positive"])  # type: ignore[no-untyped-call]
    matrix.plot(ax=axes, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": 1})  # type: ignore[no-untyped-call]
    assert matrix.text_ is not None
    for text, count, share in zip(matrix.text_.flat, cells.flat, shares.flat, strict=True):
        text.set_text(f"{count}\n{share:.1%}")
    axes.set(xlabel=f"called, from {at.threshold:g} on", ylabel="is")
