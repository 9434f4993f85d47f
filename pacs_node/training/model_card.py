"""The presentations of an evaluation: a package's card (`CARD.md`), and a folder with report and tables."""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined

from pacs_node.analyze.package import Manifest, Member, identity
from pacs_node.errors import ModelError
from pacs_node.records import ModelIdentity
from pacs_node.training import figures, model_metrics
from pacs_node.training.evaluate import Evaluation, Example
from pacs_node.training.model_metrics import FigureTable, ModelMetrics

METRICS = "metrics.json"
FIGURES = ("roc", "reliability")
UNSTATED = "None are stated, which does not mean that there are none."
ROLES = {
    "train": "The train split trained the weights.",
    "val": "The val split chose the epoch, the calibration, the threshold and the limit of the scope, so its "
    "figures flatter.",
    "test": "The test split was evaluated after all choices; nothing was chosen by it.",
}


def write_card(folder: Path, manifest: Manifest, evaluations: Sequence[Evaluation]) -> None:
    """Write `metrics.json`, two figures and `CARD.md` into the package's folder."""
    measured = {evaluation.metrics.name: evaluation.metrics for evaluation in evaluations}
    (folder / METRICS).write_text(model_metrics.to_json(measured), encoding="utf-8")
    drawn = figures.draw(evaluations)
    figures.save(folder, {name: drawn[name] for name in FIGURES}, ("png",))
    renew_card(folder, manifest)


def renew_card(folder: Path, manifest: Manifest) -> None:
    """Write `CARD.md` from the package's `metrics.json`.

    Raises InputError where that is missing or of another schema, ModelError where it is another model's.
    """
    measured = model_metrics.read(folder / METRICS)
    if {m.model_sha256 for m in measured.values()} != {identity(manifest).sha256}:
        raise ModelError(
            f"{folder / METRICS}: measured on another model than this one; evaluate it with --card"
        )
    (folder / "CARD.md").write_text(card_text(manifest, measured), encoding="utf-8")


def card_text(manifest: Manifest, measured: Mapping[str, ModelMetrics]) -> str:
    """`CARD.md`."""
    provenance, finding, given = manifest.provenance, manifest.finding, manifest.input
    networks = [
        f"  - `{network.architecture}`, {_part(network)}; weights sha256 `{network.weights_sha256}`"
        for network in manifest.networks
    ]
    test = measured.get("test")
    subgroups = f"\n{_markdown(model_metrics.subgroup_table(test))}\n" if test and test.subgroups else ""
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

{_markdown(model_metrics.summary(measured))}

{chr(10).join(f"- {ROLES[name]}" for name in measured if name in ROLES)}
- Pointing game: in which part of the images with marks the heat map's peak lies in a mark. IoU: what the
  regions in the report, or their boxes, share with the marks.
- The figures are of all images, also of those refused as out of scope, but for the line that says so.

![ROC curves](roc.png) ![Reliability](reliability.png)
{subgroups}
## What is known not to hold
{chr(10).join(f"- {limit}" for limit in provenance.limits or (UNSTATED,))}
"""


def _markdown(table: FigureTable) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.head, ["---"] * len(table.head), *table.rows))


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


def write_report(
    folder: Path,
    model: ModelIdentity,
    evaluations: Sequence[Evaluation],
    examples: Sequence[Sequence[Example]],
) -> None:
    """Write `metrics.json`, `predictions.csv`, figures, and `report.html`, which is self-contained.

    `examples` has those of each evaluation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = {evaluation.metrics.name: evaluation.metrics for evaluation in evaluations}
    (folder / METRICS).write_text(model_metrics.to_json(measured), encoding="utf-8")
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["set", "image", "group", "positive", "probability"])
        for evaluation in evaluations:
            for sample, probability in zip(evaluation.samples, evaluation.probabilities, strict=True):
                row = [evaluation.metrics.name, sample.path, sample.group, int(sample.positive), probability]
                table.writerow(row)
    drawn = figures.draw(evaluations)
    figures.save(folder / "figures", drawn)
    loader = PackageLoader("pacs_node.training", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html").render(
        model=model,
        sets=list(measured.values()),
        tables=model_metrics,
        summary=model_metrics.summary(measured),
        smallest=model_metrics.SMALLEST,
        figures={
            name: _inline("image/svg+xml", (folder / "figures" / f"{name}.svg").read_bytes())
            for name in drawn
        },
        examples=[[(example, _jpeg(example)) for example in of_set] for of_set in examples],
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _jpeg(example: Example) -> str:
    _, encoded = cv2.imencode(".jpg", example.picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return _inline("image/jpeg", encoded.tobytes())


def _inline(kind: str, data: bytes) -> str:
    """A data URI (RFC 2397)."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
