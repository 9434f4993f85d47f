"""The card is made from `model.toml` and `metrics.json` alone."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import phantom
from support.model_packages import write_untrained
from typer.testing import CliRunner

from pacs_node.analyze import package
from pacs_node.cli import app
from pacs_node.errors import InputError, ModelError
from pacs_node.training import model_card, model_metrics


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A package with a card, of a model that was evaluated."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows = []
    for seed in range(8):
        pixels = phantom.radiograph(seed, seed % 2 == 1, rows=80, columns=64) >> 4
        cv2.imwrite(str(data / "images" / f"{seed}.png"), pixels.astype(np.uint8))
        rows.append([f"{seed}.png", "val" if seed < 4 else "test", seed % 2, seed])
    with (data / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "fractured", "group"], *rows])
    folder = write_untrained(tmp_path / "untrained")
    options = ["--split", "val", "--split", "test", "--robustness", "0", "--card"]
    answer = CliRunner().invoke(app, ["evaluate", "--model", str(folder), "--data", str(data), *options])
    assert answer.exit_code == 0, answer.output
    return folder


def test_the_card_tells_what_was_measured(model: Path) -> None:
    measured = model_metrics.read(model / "metrics.json")
    text = (model / "CARD.md").read_text(encoding="utf-8")
    assert f"| AUC-ROC | {measured['val'].auc} | {measured['test'].auc} |" in text
    assert "| pointing game | not marked | not marked |" in text
    assert "Does not exclude a fracture." in text
    assert model_card.ROLES["val"] in text
    assert model_card.ROLES["train"] not in text
    assert (model / "roc.png").stat().st_size > 5000

    (model / "CARD.md").unlink()
    answer = CliRunner().invoke(app, ["evaluate", "--model", str(model), "--card"])
    assert answer.exit_code == 0, answer.output
    assert (model / "CARD.md").read_text(encoding="utf-8") == text


def test_figures_of_another_model_are_refused(model: Path) -> None:
    manifest = package.read_manifest(model)
    other = manifest.model_copy(update={"threshold": 0.25})
    with pytest.raises(ModelError, match="measured on another model"):
        model_card.renew_card(model, other)


def test_figures_that_are_missing_or_of_another_schema_are_named(model: Path) -> None:
    manifest = package.read_manifest(model)
    (model / "metrics.json").write_text('{"test": {"auc": 0.9}}')
    with pytest.raises(InputError, match=r"metrics\.json: test\..*evaluate` measures the model anew"):
        model_card.renew_card(model, manifest)
    (model / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json: no such file"):
        model_card.renew_card(model, manifest)
