"""A model package's card: `CARD.md`, out of `model.toml` and `metrics.json` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pacs_node.analyze.package import Manifest, Member, identity
from pacs_node.errors import ModelError
from pacs_node.training import figures, model_metrics
from pacs_node.training.evaluate import Evaluation
from pacs_node.training.model_metrics import ModelMetrics

METRICS = "metrics.json"
FIGURES = ("roc", "reliability")
UNSTATED = "Nothing was stated, which does not mean that all holds."
ROLES = {
    "train": "The train split trained the weights.",
    "val": "The val split chose the epoch, the calibration, the threshold and the limit of the scope, so its "
    "figures flatter.",
    "test": "The test split was evaluated after all choices; nothing was chosen by it.",
}


def write(folder: Path, manifest: Manifest, evaluations: Sequence[Evaluation]) -> None:
    """Write `metrics.json`, two figures and `CARD.md` into the package's folder."""
    measured = {evaluation.metrics.name: evaluation.metrics for evaluation in evaluations}
    (folder / METRICS).write_text(model_metrics.to_json(measured), encoding="utf-8")
    drawn = figures.draw(evaluations)
    figures.save(folder, {name: drawn[name] for name in FIGURES}, ("png",))
    renew(folder, manifest)


def renew(folder: Path, manifest: Manifest) -> None:
    """Write `CARD.md` from the package's `metrics.json`.

    Raises InputError where that is missing or of another schema, ModelError where it is another model's.
    """
    measured = model_metrics.read(folder / METRICS)
    if {m.model_sha256 for m in measured.values()} != {identity(manifest).sha256}:
        raise ModelError(
            f"{folder / METRICS}: measured on another model than this one; evaluate it with --card"
        )
    (folder / "CARD.md").write_text(text(manifest, measured), encoding="utf-8")


def text(manifest: Manifest, measured: Mapping[str, ModelMetrics]) -> str:
    """`CARD.md`."""
    provenance, finding, given = manifest.provenance, manifest.finding, manifest.input
    networks = [
        f"  - `{network.architecture}`, {_part(network)}; weights sha256 `{network.weights_sha256}`"
        for network in manifest.networks
    ]
    mirrored = " Each image is also shown mirrored, and the answers are averaged." if given.mirror else ""
    return f"""# {manifest.name} {manifest.version}

Looks for {finding.meaning.lower()} in one X-ray image and gives a probability and a heat map.
**For research only. Not a medical device, not for diagnosis.** "{finding.negative}" means that
the probability is below the threshold. {finding.caveat}

## What it is
- Input: gray, letterboxed to {given.size} x {given.size}; percentiles {given.stretch[0]:g} and
  {given.stretch[1]:g} become black and white.{mirrored}
- {"Networks, whose margins are averaged" if manifest.members else "Network"}:
{chr(10).join(networks)}
- Probability: sigmoid({manifest.calibration.slope:g} x margin {manifest.calibration.intercept:+g}),
  positive from {manifest.threshold:g} on.
- Heat map: {identity(manifest).explanation}. It shows what spoke for the finding, not an outline.
- Scope: {_scope(manifest)}

## What it was made from
- Data: {provenance.data}. Licence: {provenance.data_license}. {provenance.citation}
- Start: {provenance.pretrained}

## What was measured
In brackets: 95 % confidence intervals, bootstrapped by group. Measured through the code that serves.

{_table(["", *measured], [[name, *cells] for name, cells in model_metrics.summary(measured).items()])}

{chr(10).join(f"- {ROLES[name]}" for name in measured if name in ROLES)}
- Pointing game: in which part of the images with marks the heat map's peak lies in a mark. IoU: what the
  regions in the report, or their boxes, share with the marks.
- The figures are of all images, also of those refused as out of scope, but for the line that says so.

![ROC curves](roc.png) ![Reliability](reliability.png)
{"".join(_subgroups(m) for name, m in measured.items() if name == "test")}
## What is known not to hold
{chr(10).join(f"- {limit}" for limit in provenance.limits or (UNSTATED,))}
"""


def _subgroups(measured: ModelMetrics) -> str:
    rows = [
        [
            f"{group.trait}: {group.value}",
            f"{group.images} ({group.positives})",
            *(model_metrics.told(e, "too few") for e in (group.auc, group.sensitivity, group.specificity)),
            model_metrics.told(group.refused, "no guard"),
        ]
        for group in measured.subgroups
    ]
    head = [f"{measured.name}: subgroup", "images (positive)", "AUC", "sensitivity", "specificity", "refused"]
    return f"\n{_table(head, rows)}\n" if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _scope(manifest: Manifest) -> str:
    """What is refused, and by what."""
    parts = f"Skipped where the header states another body part than {', '.join(manifest.body_parts)}."
    scope = manifest.scope
    guard = "No guard: an image of anything is answered."
    if scope:
        guard = (
            "Refused where the image is unlike those of the train split: the channel means at "
            f"`{scope.layer}` of network {scope.network + 1} are further away than {scope.limit:g} "
            f"(Mahalanobis); sha256 `{scope.file_sha256}`."
        )
    return f"{parts} {guard}" if manifest.body_parts else guard


def _part(network: Member) -> str:
    """What a network has to do with the heat map."""
    if network.size is not None:
        return f"at {network.size} x {network.size}, for the answer alone: the heat map is made without it"
    grid = network.heat_map
    return f"heat map at `{grid.layer}`, one cell every {grid.stride:g} pixels of the input"
