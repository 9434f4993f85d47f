"""The files of an evaluation: `metrics.json`, `predictions.csv`, figures, and one page that holds it all."""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined

from pacs_node.records import ModelIdentity
from pacs_node.training import figures, model_metrics
from pacs_node.training.evaluate import Evaluation, Example


def write(
    folder: Path,
    model: ModelIdentity,
    evaluations: Sequence[Evaluation],
    examples: Sequence[Sequence[Example]],
) -> None:
    """Write all of it into a folder; `examples` has those of each evaluation.

    `report.html` needs no other file, no network and no scripts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = {evaluation.metrics.name: evaluation.metrics for evaluation in evaluations}
    (folder / "metrics.json").write_text(model_metrics.to_json(measured), encoding="utf-8")
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["set", "image", "group", "positive", "probability"])
        for one in evaluations:
            for sample, probability in zip(one.samples, one.probabilities, strict=True):
                row = [one.metrics.name, sample.path, sample.group, int(sample.positive), probability]
                table.writerow(row)
    drawn = figures.draw(evaluations)
    figures.save(folder / "figures", drawn)
    loader = PackageLoader("pacs_node.training", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("page.html").render(
        model=model,
        sets=list(measured.values()),
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
