"""From a small data set to a package: every step of `train`, on shapes that a network learns in a minute."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from pacs_node.analyze import package, pixels
from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.classifier import Classifier
from pacs_node.errors import InputError, ModelError
from pacs_node.records import HeatMap
from pacs_node.training import card, dataset, evaluate, publish
from pacs_node.training import train as training

OPTIONS = training.Options(input_size=96, epochs=2, batch=8, threads=1, learning_rate=1e-3)
PROVENANCE = package.Provenance(
    data="bars", data_license="none", citation="Made here.", pretrained="random", limits=("only bars",)
)


@pytest.fixture(scope="module")
def rgb_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of torchvision's RGB network, with biases that matter."""
    torch.manual_seed(7)
    network = models.squeezenet1_0(weights=None)
    with torch.no_grad():
        network.features[0].bias.normal_()
    path = tmp_path_factory.mktemp("pretrained") / "rgb.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set: a bright bar, broken by a gap in half of the images."""
    folder = tmp_path_factory.mktemp("bars")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    rows, regions = [], {}
    for index in range(64):
        split = ("train", "train", "val", "test")[index % 4]
        fractured = index // 4 % 2
        image = rng.integers(0, 40, (120, 100)).astype(np.uint8)
        cv2.line(image, (50, 5), (50, 115), 220, 21)
        if fractured:
            cv2.rectangle(image, (30, 50), (70, 62), 20, -1)
            regions[f"{index}.png"] = [{"bbox": [30, 48, 40, 16]}]
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
        rows.append([f"{index}.png", split, fractured, index // 8 * 4 + index % 4])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "fractured", "group"], *rows])
    (folder / "regions.json").write_text(json.dumps(regions))
    return folder


def test_folding_the_input_is_exact(rgb_weights: Path) -> None:
    network = ARCHITECTURES["squeezenet1_0"].build().eval()
    training.initialize(network, rgb_weights)
    rgb = models.squeezenet1_0(weights=None).eval()
    rgb.load_state_dict(load_file(rgb_weights))
    gray = torch.rand(2, 1, 128, 128)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (training.IMAGENET_MEAN, training.IMAGENET_STD))
    with torch.inference_mode():
        expected = rgb.features((gray.expand(-1, 3, -1, -1) - mean) / std)
        found = network.get_submodule("features")(gray)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_weights_of_a_package_are_taken_over_whole(tmp_path: Path) -> None:
    trained, network = (ARCHITECTURES["squeezenet1_0"].build() for _ in range(2))
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    training.initialize(network, tmp_path / "weights.safetensors")
    torch.testing.assert_close(network.state_dict(), trained.state_dict())


def test_a_padded_first_convolution_cannot_be_folded(rgb_weights: Path) -> None:
    with pytest.raises(ModelError, match="pads its input"):
        training.initialize(nn.Sequential(nn.Conv2d(1, 8, 3, padding=1)), rgb_weights)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(
        {"features.0.weight": torch.zeros(96, 3, 7, 7), "features.0.bias": torch.zeros(96)}, tmp_path / "w"
    )
    with pytest.raises(ModelError, match="not weights of this architecture"):
        training.initialize(ARCHITECTURES["squeezenet1_0"].build(), tmp_path / "w")


def test_augmentation_moves_within_the_square_and_keeps_the_range() -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((96, 96), np.float32)
    image[40:56, 30:40] = 0.7
    copies = [training.augment(image, OPTIONS, rng) for _ in range(30)]
    assert all(copy.dtype == np.float32 and copy.min() >= 0 and copy.max() <= 1 for copy in copies)
    assert all(copy.sum() > 20 for copy in copies)
    assert len({round(float(copy.sum()), 3) for copy in copies}) == 30
    still = replace(OPTIONS, rotation=0, scale=0, shift=0, gamma=0)
    mirrored = {training.augment(image, still, rng).tobytes() for _ in range(40)}
    assert mirrored == {np.ascontiguousarray(image[::y, ::x]).tobytes() for y in (1, -1) for x in (1, -1)}


@pytest.mark.slow
def test_from_data_to_a_package(bars: Path, rgb_weights: Path, tmp_path: Path) -> None:
    console = Console(quiet=True)
    weights = training.train(bars, rgb_weights, tmp_path / "run", OPTIONS, console)
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(log) == 1 + OPTIONS.epochs
    assert json.loads((tmp_path / "run" / "options.json").read_text())["input_size"] == 96
    again = training.train(bars, rgb_weights, tmp_path / "again", OPTIONS, console)
    for name, value in load_file(weights).items():
        torch.testing.assert_close(value, load_file(again)[name])

    out = tmp_path / "bars-1"
    manifest = publish.publish(bars, weights, out, "Bars", "1", OPTIONS, PROVENANCE)
    loaded = package.load(out)
    assert loaded.manifest == manifest
    assert loaded.identity.id == "bars-1"
    classifier = Classifier(loaded, "cpu")
    measured = evaluate.evaluate(classifier, bars, "test", console)
    assert measured.metrics.images == 16
    assert measured.metrics.fractured == 8
    sample = dataset.load(bars, "test")[3]
    (prediction,) = classifier.predict([dataset.display(sample.path)])
    assert measured.probabilities[3] == prediction.probability

    card.write(out, manifest, [measured])
    text = (out / "CARD.md").read_text(encoding="utf-8")
    assert str(measured.metrics.auc) in text
    assert "only bars" in text
    assert "This does not exclude a fracture." in text
    assert (
        json.loads((out / "metrics.json").read_text())["test"]["auc"]["value"] == measured.metrics.auc.value
    )
    picture = cv2.imread(str(out / "roc.png"))
    assert picture is not None
    assert picture.std() > 5


def test_training_sees_what_serving_sees(bars: Path) -> None:
    samples = dataset.load(bars, "val")
    inputs = dataset.network_inputs(samples, 96, (1.0, 99.0))
    served, _ = pixels.letterbox(dataset.display(samples[0].path), 96, (1.0, 99.0))
    np.testing.assert_array_equal(inputs[0], served)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.png,train,1,"], "no value for group"),
        (["a.png,train,2,1"], "fractured 0 or 1"),
        (["a.png,dev,1,1"], "split must be one of"),
        (["a.png,train,1,1", "b.png,val,1,1"], "manifest.csv:3: group 1 is in two splits"),
    ],
)
def test_a_bad_manifest_names_the_line(rows: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("\n".join(["image,split,fractured,group", *rows]))
    with pytest.raises(InputError, match=message):
        dataset.load(tmp_path, "train")


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.csv: no such file"):
        dataset.load(tmp_path, "train")
    with pytest.raises(InputError, match=r"no\.png: not an image"):
        dataset.display(tmp_path / "no.png")


def test_calibration_recovers_a_known_sigmoid() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 2, 20000)
    labels = rng.random(20000) < 1 / (1 + np.exp(-(0.8 * margin - 1.2)))
    found = publish.calibrate(margin, labels)
    assert (found.slope, found.intercept) == pytest.approx((0.8, -1.2), abs=0.06)


def test_the_operating_point_is_the_largest_youden_index() -> None:
    labels = np.array([0, 0, 0, 0, 1, 0, 1, 1], bool)
    probabilities = np.array([0.1, 0.2, 0.3, 0.35, 0.40001, 0.5, 0.6, 0.9])
    threshold = publish.operating_point(probabilities, labels)
    assert threshold == 0.4
    assert (probabilities >= threshold).sum() == 4


def test_the_bootstrap_draws_groups() -> None:
    values = np.repeat([0.0, 1.0] * 10, 50)
    groups = np.repeat(np.arange(20), 50).astype(str)

    def mean(weights: np.ndarray) -> float:
        return float((values * weights).sum() / weights.sum())

    by_group = evaluate.bootstrap(mean, groups)
    alone = evaluate.bootstrap(mean, np.arange(1000).astype(str))
    # Standard error of a half of 20 draws: 0.11; of 1000: 0.016.
    assert (by_group.low, by_group.high) == pytest.approx((0.28, 0.72), abs=0.05)
    assert (alone.low, alone.high) == pytest.approx((0.47, 0.53), abs=0.01)
    assert by_group.value == 0.5


def test_the_pointing_game() -> None:
    values = np.zeros((5, 4), np.float32)
    values[3, 1] = 1
    heat_map = HeatMap(values, origin=(12.5, 12.5), step=(25, 25))
    shape = (125, 100)
    assert evaluate.peak_is_inside(heat_map, shape, [(30, 80, 15, 15)])
    assert evaluate.peak_is_inside(heat_map, shape, [(0, 0, 5, 5), (30, 80, 15, 15)])
    assert not evaluate.peak_is_inside(heat_map, shape, [(80, 30, 15, 15)])
    empty = HeatMap(np.zeros((5, 4), np.float32), origin=(12.5, 12.5), step=(25, 25))
    assert not evaluate.peak_is_inside(empty, shape, [(0, 0, 100, 125)])
    assert evaluate.covered(shape, [(0, 0, 50, 25), (25, 0, 25, 25)]) == pytest.approx(0.1)
