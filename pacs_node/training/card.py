"""A model package's card: `CARD.md`, `metrics.json` and `roc.png`, from measured figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from pacs_node.analyze.package import Manifest
from pacs_node.training.evaluate import Evaluation

UNSTATED = "Nothing was stated, which does not mean that all holds."
ROLES = {
    "val": "chose the epoch, the calibration and the threshold, so its figures flatter",
    "test": "was evaluated once, after all choices",
    "train": "trained the weights",
}


def write(folder: Path, manifest: Manifest, evaluations: Sequence[Evaluation]) -> None:
    """Write the three files into the package's folder."""
    figures = {evaluation.metrics.split: evaluation.metrics.model_dump() for evaluation in evaluations}
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / "CARD.md").write_text(text(manifest, evaluations), encoding="utf-8")
    _roc(folder / "roc.png", evaluations)


def text(manifest: Manifest, evaluations: Sequence[Evaluation]) -> str:
    """`CARD.md`."""
    head = "| | " + " | ".join(evaluation.metrics.split for evaluation in evaluations) + " |"
    all_metrics = [evaluation.metrics for evaluation in evaluations]
    rows = {
        "images (fractured), groups": [f"{m.images} ({m.fractured}), {m.groups}" for m in all_metrics],
        "AUC": [str(m.auc) for m in all_metrics],
        f"sensitivity at {manifest.threshold:g}": [str(m.sensitivity) for m in all_metrics],
        f"specificity at {manifest.threshold:g}": [str(m.specificity) for m in all_metrics],
        "Brier score": [f"{m.brier:.3f}" for m in all_metrics],
        "pointing game": [str(m.pointing) if m.pointing else "not marked" for m in all_metrics],
        "pointing game by chance": [
            "not marked" if m.pointing_by_chance is None else f"{m.pointing_by_chance:.3f}"
            for m in all_metrics
        ],
    }
    table = [head, "|---|" + "---|" * len(evaluations)]
    table += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    roles = [f"- The {m.split} split {ROLES[m.split]}." for m in all_metrics]
    provenance = manifest.provenance
    return f"""# {manifest.name} {manifest.version}

Looks for {manifest.finding.meaning.lower()} in one X-ray image and gives a probability and a heat map.
**For research only. Not a medical device, not for diagnosis.** "{manifest.finding.negative}" means that
the probability is below the threshold. {manifest.finding.caveat}

## What it is
- `{manifest.architecture}`, one gray channel of {manifest.input.size} x {manifest.input.size}, letterboxed;
  percentiles {manifest.input.stretch[0]:g} and {manifest.input.stretch[1]:g} become black and white.
- Probability: sigmoid({manifest.calibration.slope:g} x margin {manifest.calibration.intercept:+g}),
  positive from {manifest.threshold:g} on (largest Youden index on the validation split).
- Heat map: Grad-CAM of the fractured logit at `{manifest.heat_map.layer}`, one cell every
  {manifest.heat_map.stride:g} pixels of the input. It shows what spoke for a fracture, not an outline.
- Weights: sha256 `{manifest.weights_sha256}`.

## What it was made from
- Data: {provenance.data}. Licence: {provenance.data_license}. {provenance.citation}
- Start: {provenance.pretrained}

## What was measured
In brackets: 95 % confidence intervals, bootstrapped by group. Measured through the same code that serves.

{chr(10).join(table)}

{chr(10).join(roles)}
- Pointing game: in which part of the images with marked fractures the heat map's peak lies in a mark.

![ROC curves](roc.png)

## What is known not to hold
{chr(10).join(f"- {limit}" for limit in provenance.limits or (UNSTATED,))}
"""


def _roc(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """ROC curves with the operating point."""
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for evaluation in evaluations:
        metrics = evaluation.metrics
        false_positive_rate, true_positive_rate, _ = roc_curve(evaluation.labels, evaluation.probabilities)
        (line,) = axes.plot(
            false_positive_rate, true_positive_rate, label=f"{metrics.split}: AUC {metrics.auc.value:.3f}"
        )
        axes.plot(
            1 - metrics.specificity.value,
            metrics.sensitivity.value,
            "o",
            color=line.get_color(),
            clip_on=False,
        )
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=100, metadata={"Software": None})
