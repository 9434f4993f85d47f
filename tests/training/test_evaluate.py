"""`evaluate`: what is measured is what is served, and what comes out of it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from rich.console import Console
from sklearn.metrics import roc_auc_score
from support import phantom
from support.model_packages import write_untrained
from typer.testing import CliRunner

from pacs_node.analyze import package
from pacs_node.analyze.classifier import Classifier
from pacs_node.cli import app
from pacs_node.config import Settings
from pacs_node.errors import InputError
from pacs_node.filemode import analyze_files
from pacs_node.training import dataset, model_metrics, publish
from pacs_node.training.evaluate import evaluate, examples

NUMBERS = {"122157", "111012"}
"""Probability of a negative image and Certainty of Finding of a positive one, in percent."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network whose probabilities differ from image to image, about half of them positive."""
    folder = write_untrained(tmp_path_factory.mktemp("models") / "untrained")
    text = (folder / package.MANIFEST).read_text()
    radiographs = [phantom.radiograph(seed, seed % 2 == 1, rows=160, columns=128) for seed in range(8)]
    displays = [(radiograph / 4095).astype(np.float32) for radiograph in radiographs]
    margins = [found.margin for found in Classifier(package.load(folder), "cpu").predict(displays)]
    slope = float(1 / np.std(margins))
    text = text.replace("slope = 0.01", f"slope = {slope}")
    text = text.replace("intercept = 1.5", f"intercept = {-slope * float(np.median(margins))}")
    (folder / package.MANIFEST).write_text(text)
    return folder


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of DICOM files with labels.csv, both photometric interpretations."""
    folder = tmp_path_factory.mktemp("radiographs")
    rows = []
    for seed in range(6):
        image = phantom.dataset(
            seed,
            fractured=seed % 2 == 1,
            rows=160,
            columns=128,
            photometric="MONOCHROME1" if seed % 3 else "MONOCHROME2",
        )
        image.save_as(folder / f"{seed}.dcm", enforce_file_format=True)
        rows.append([f"{seed}.dcm", seed % 2, "test", "left" if seed < 3 else "right"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "split", "side"], *rows])
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of PNG with two splits and marks."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "images").mkdir()
    rows, marks = [], {}
    for seed in range(16):
        name, fractured = f"{seed}.png", seed % 2
        pixels = phantom.radiograph(seed, fractured == 1, rows=160, columns=128) >> 4
        cv2.imwrite(str(folder / "images" / name), pixels.astype(np.uint8))
        rows.append([name, "val" if seed < 8 else "test", fractured, seed // 2, "PA", 100 + seed])
        if fractured:
            marks[name] = [{"bbox": [40, 60, 40, 40]}]
    with (folder / "manifest.csv").open("w", newline="") as file:
        header = ["image", "split", "fractured", "group", "view", "width"]
        csv.writer(file).writerows([header, *rows])
    (folder / "regions.json").write_text(json.dumps(marks))
    return folder


def run(*arguments: object) -> str:
    answer = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_evaluate_gives_the_probability_of_the_report(model: Path, radiographs: Path, tmp_path: Path) -> None:
    served_with = {"path": model, "device": "cpu", "threshold": 0.3}
    settings = Settings.model_validate({"model": served_with})
    classifier = Classifier(package.load(model), "cpu", threshold=0.3)
    samples = dataset.load(radiographs, "test")
    paths = [sample.path for sample in samples]
    measured = evaluate(classifier, samples, "test", Console(quiet=True))
    served = []
    for path in paths:
        list(analyze_files([path], settings, classifier, tmp_path))
        report = dcmread(tmp_path / f"{path.name}.sr.dcm")
        (percent,) = {
            float(item.MeasuredValueSequence[0].NumericValue)
            for element in report.iterall()
            if element.keyword == "ContentSequence"
            for item in element.value
            if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue in NUMBERS
        }
        served.append(round(percent / 100, 4))
    assert list(measured.probabilities) == served
    assert len(set(served)) == len(served)
    assert min(served) < 0.3 < max(served)


def test_what_is_measured(model: Path, pictures: Path) -> None:
    classifier = Classifier(package.load(model), "cpu")
    samples = dataset.load(pictures)
    measured = evaluate(classifier, samples, "all", Console(quiet=True), robustness=6)
    found = measured.metrics
    assert (found.images, found.positives, found.groups) == (16, 8, 8)
    assert found.localization is not None
    assert found.localization.images == 8
    assert found.localization.chance.value == pytest.approx(40 * 40 / (160 * 128), abs=1e-4)
    assert {(group.trait, group.value, group.images, group.positives) for group in found.subgroups} == {
        ("width", "up to 107", 8, 4),
        ("width", "over 107", 8, 4),
        ("marked area", "small, and all negatives", 11, 3),
        ("marked area", "medium, and all negatives", 11, 3),
        ("marked area", "large, and all negatives", 10, 2),
    }
    undisturbed, *disturbed = found.disturbances
    assert undisturbed.probability_change.value == 0
    assert undisturbed.images == 6
    assert any(one.probability_change.value > 0.001 for one in disturbed)
    assert (found.refused, found.accepted_auc, undisturbed.refused) == (None, None, None)
    shown = examples(classifier, measured, each=2)
    assert all(example.picture.shape == (360, 288, 3) for example in shown)
    for kind in ("true positive", "true negative", "false positive", "false negative"):
        called = kind.endswith("positive")
        of_kind = [
            probability
            for probability, label in zip(measured.probabilities, measured.labels, strict=True)
            if (probability >= found.operation.threshold) == called
            and (label == called) == kind.startswith("true")
        ]
        certain = sorted(of_kind, reverse=called)[:2]
        assert [example.probability for example in shown if example.kind == kind] == certain


def test_what_the_guard_refuses_is_measured(model: Path, pictures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "guarded")
    samples = dataset.load(pictures)
    with pytest.raises(InputError, match="needs images of the split train"):
        publish.fit_guard(folder, samples)
    publish.fit_guard(
        folder, [replace(one, split="val" if at % 2 else "train") for at, one in enumerate(samples)]
    )
    path = folder / package.MANIFEST
    limit = package.read_manifest(folder).scope.limit  # type: ignore[union-attr]
    path.write_text(path.read_text().replace(f"limit = {limit}", f"limit = {limit * 0.9}"))
    classifier = Classifier(package.load(folder), "cpu")
    predictions = classifier.predict([dataset.display(sample.path) for sample in samples])
    refused = np.array([prediction.scope is not None and prediction.scope > 1 for prediction in predictions])
    assert 0 < refused.sum() < len(refused)
    found = evaluate(classifier, samples, "all", Console(quiet=True), robustness=6).metrics
    assert found.refused is not None
    assert found.refused.value == pytest.approx(refused.mean(), abs=1e-4)
    assert found.accepted_auc is not None
    accepted = [sample.positive for sample, out in zip(samples, refused, strict=True) if not out]
    scores = [p.probability for p, out in zip(predictions, refused, strict=True) if not out]
    assert found.accepted_auc.value == pytest.approx(roc_auc_score(accepted, scores), abs=1e-4)
    assert all(group.refused is not None for group in found.subgroups)
    assert all(one.refused is not None for one in found.disturbances)


def test_the_page_holds_everything_and_sets_stand_side_by_side(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    table = run("--model", model, "--data", pictures, "--split", "val", "--split", "test", "--out", tmp_path)
    assert "AUC-ROC" in table
    measured = model_metrics.read(tmp_path / "metrics.json")
    assert list(measured) == ["val", "test"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{measured['test'].auc.value:.3f}" in page
    assert set(re.findall(r'src="(.{10})', page)) == {"data:image"}
    assert not re.search(r"<script|<link|https?://|@import", page)
    for name in ("roc", "precision-recall", "reliability", "thresholds", "scores", "confusion"):
        picture = cv2.imread(str(tmp_path / "figures" / f"{name}.png"))
        assert picture is not None
        assert picture.std() > 5
        assert (tmp_path / "figures" / f"{name}.svg").read_text().lstrip().startswith("<?xml")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    scores = np.array([float(row["probability"]) for row in rows if row["set"] == "test"])
    assert (
        measured["test"].operation.true_positives + measured["test"].operation.false_positives
        == (scores >= measured["test"].operation.threshold).sum()
    )


def test_several_data_sets_are_told_apart(model: Path, pictures: Path, radiographs: Path) -> None:
    told = json.loads(run("--model", model, "--data", pictures, "--data", radiographs, "--json"))
    assert list(told) == [f"{pictures.name} test", f"{radiographs.name} test"]
    assert told[f"{radiographs.name} test"]["images"] == 6


def test_a_set_of_one_label_is_refused(model: Path, pictures: Path) -> None:
    negatives = [sample for sample in dataset.load(pictures) if not sample.positive]
    with pytest.raises(InputError, match="mine: 8 images, 0 of them positive; both"):
        evaluate(Classifier(package.load(model), "cpu"), negatives, "mine", Console(quiet=True))


def test_nothing_to_do_is_wrong_usage(model: Path) -> None:
    answer = CliRunner().invoke(app, ["evaluate", "--model", str(model)])
    assert answer.exit_code == 2
    assert "--data" in answer.output
