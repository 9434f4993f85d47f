"""ONNX networks and ensembles: their answer is known, since they look for bright places."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support import model_packages

from pacs_node.analyze import package
from pacs_node.analyze.classifier import Classifier
from pacs_node.errors import ModelError
from pacs_node.records import Prediction

PLACE = 90.0, 40.0
"""Column and row of the bright place in the images here."""


def bright(rows: int = 128, columns: int = 128, place: tuple[float, float] = PLACE) -> NDArray[np.float32]:
    """A broad bright spot on black."""
    y, x = np.mgrid[:rows, :columns] + 0.5
    spot = np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * 12.0**2))
    return np.asarray(spot, np.float32)


def centre(prediction: Prediction, rows: int, columns: int) -> tuple[float, float]:
    """Column and row of the map's centre of gravity in the image."""
    over = prediction.heat_map.at_size(rows, columns, (rows, columns)).astype(np.float64)
    y, x = np.mgrid[:rows, :columns] + 0.5
    return float((over * x).sum() / over.sum()), float((over * y).sum() / over.sum())


@pytest.mark.parametrize("layer", ["evidence", "occlusion"])
@pytest.mark.parametrize("batch", ["n", 1])
def test_the_map_shows_the_place(layer: str, batch: int | str, tmp_path: Path) -> None:
    entry = model_packages.member(
        tmp_path, model_packages.network(16, batch=batch, size=128), 16, layer=layer
    )
    classifier = Classifier(package.load(model_packages.write_onnx(tmp_path, entry)), "cpu")
    images = [bright(), bright(256, 160, (100.0, 60.0)), np.zeros((64, 64), np.float32)]
    spot, other, dark = classifier.predict(images)
    assert centre(spot, 128, 128) == pytest.approx(PLACE, abs=4)
    assert centre(other, 256, 160) == pytest.approx((100, 60), abs=8)
    assert spot.heat_map.values.shape == (8, 8)
    assert spot.heat_map.values.max() == 1
    assert dark.probability == round(1 / (1 + np.exp(5)), 4)
    assert not dark.heat_map.values.any()
    for image, together in zip(images, (spot, other, dark), strict=True):
        (alone,) = classifier.predict([image])
        assert alone.probability == together.probability
        np.testing.assert_array_equal(alone.heat_map.values, together.heat_map.values)


def test_three_normalized_channels(tmp_path: Path) -> None:
    gray = model_packages.write_onnx(
        tmp_path / "gray", model_packages.member(tmp_path / "gray", model_packages.network(16), 16)
    )
    entry = model_packages.member(tmp_path / "rgb", model_packages.network(16, channels=3), 16)
    rgb = model_packages.write_onnx(tmp_path / "rgb", entry, mean=[0.1, 0.2, 0.3], std=[0.5, 0.5, 0.5])
    (one,), (other,) = (Classifier(package.load(path), "cpu").predict([bright()]) for path in (gray, rgb))
    assert other.margin == pytest.approx(10 * (one.margin / 10 - 0.2) / 0.5, abs=1e-4)


def test_an_ensemble_is_the_mean_of_its_networks(tmp_path: Path) -> None:
    cells = 16, 8, 32
    members = [
        model_packages.member(tmp_path, model_packages.network(cell), cell, f"{cell}.onnx") for cell in cells
    ]
    alone = [
        Classifier(package.load(model_packages.write_onnx(tmp_path, entry)), "cpu").predict([bright()])[0]
        for entry in members
    ]
    loaded = package.load(model_packages.write_onnx(tmp_path, *members))
    (prediction,) = Classifier(loaded, "cpu").predict([bright()])
    assert prediction.margin == pytest.approx(np.mean([one.margin for one in alone]))
    assert len({one.margin for one in alone}) == 3
    assert prediction.heat_map.values.shape == alone[1].heat_map.values.shape  # the finest grid
    assert prediction.heat_map.step == alone[1].heat_map.step
    assert prediction.heat_map.values.max() == 1
    assert centre(prediction, 128, 128) == pytest.approx(PLACE, abs=1)
    assert prediction.heat_map.values.sum() > alone[1].heat_map.values.sum()  # the coarse maps widen it


def test_the_identity_covers_every_network(tmp_path: Path) -> None:
    first, second = (
        model_packages.member(tmp_path, model_packages.network(cell), cell, f"{cell}.onnx")
        for cell in (8, 16)
    )
    both = package.load(model_packages.write_onnx(tmp_path, first, second))
    assert both.identity.explanation == "the network's own map"
    assert both.identity.sha256 != package.load(model_packages.write_onnx(tmp_path, first)).identity.sha256
    (tmp_path / "16.onnx").write_bytes(b"changed")
    with pytest.raises(ModelError, match=r"16\.onnx: sha256"):
        package.load(model_packages.write_onnx(tmp_path, first, second))
    other = model_packages.member(tmp_path, model_packages.network(16), 16, "16.onnx", layer="occlusion")
    mixed = package.load(model_packages.write_onnx(tmp_path, first, other)).identity
    assert mixed.explanation == "several methods"
    assert mixed.sha256 != both.identity.sha256


def test_a_mirrored_map_is_mirrored_back_to_its_place(tmp_path: Path) -> None:
    # 8 cells of 16 pixels on 136: what is left over lies on one side, and after mirroring on the other.
    entry = model_packages.member(tmp_path, model_packages.network(16), 16)
    plain, mirrored = (
        Classifier(package.load(model_packages.write_onnx(tmp_path, entry, size=136, mirror=mirror)), "cpu")
        for mirror in (False, True)
    )
    image = bright(136, 136, (62.0, 50.0))
    assert centre(plain.predict([image])[0], 136, 136) == pytest.approx((62, 50), abs=0.5)
    (both,), (flipped,) = mirrored.predict([image]), mirrored.predict([np.fliplr(image)])
    assert centre(both, 136, 136) == pytest.approx((62, 50), abs=0.5)
    assert centre(flipped, 136, 136) == pytest.approx((74, 50), abs=0.5)
    assert flipped.margin == pytest.approx(both.margin)
    margins = [plain.predict([shown])[0].margin for shown in (image, np.fliplr(image))]
    assert margins[0] != margins[1]
    assert both.margin == pytest.approx(np.mean(margins))


def one_logit() -> onnx.ModelProto:
    model = model_packages.network(16)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("column", TensorProto.FLOAT, None))
    return model


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (one_logit(), "evidence", r"first output is \(1, 1\).*logits \(N, 2\)"),
        (model_packages.network(16), "pooled", "pooled"),
        (model_packages.network(16), "logits", r"output logits is \(1, 2\).*\(N, rows, columns\)"),
        (model_packages.network(16, channels=3), "evidence", r"one float32 input \(1, 1, 128, 128\)"),
        (model_packages.network(16, size=224), "evidence", r"one float32 input \(1, 1, 128, 128\)"),
    ],
)
def test_a_network_of_another_shape_is_refused(
    model: onnx.ModelProto, layer: str, message: str, tmp_path: Path
) -> None:
    folder = model_packages.write_onnx(tmp_path, model_packages.member(tmp_path, model, 16, layer=layer))
    with pytest.raises(ModelError, match=message):
        package.load(folder)


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no network")
    entry = model_packages.entry(tmp_path / "model.onnx", 16)
    with pytest.raises(ModelError, match="cannot be run"):
        package.load(model_packages.write_onnx(tmp_path, entry))


def test_weights_outside_of_the_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_packages.network(16)
    for tensor in model.graph.initializer:
        tensor.raw_data = np.float32(tensor.float_data).tobytes()
        tensor.ClearField("float_data")
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="w", size_threshold=0)
    assert (tmp_path / "w").is_file()
    monkeypatch.chdir(tmp_path)
    folder = model_packages.write_onnx(tmp_path, model_packages.entry(tmp_path / "model.onnx", 16))
    with pytest.raises(ModelError, match="External data"):
        package.load(folder)


def test_values_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    model = model_packages.network(16)
    (ten,) = (tensor for tensor in model.graph.initializer if tensor.name == "ten")
    ten.float_data[0] = float("inf")  # black gives 0 x inf
    classifier = Classifier(
        package.load(model_packages.write_onnx(tmp_path, model_packages.member(tmp_path, model, 16))), "cpu"
    )
    with pytest.raises(ModelError, match=r"bright-1: .* NaN or Inf"):
        classifier.predict([np.zeros((64, 64), np.float32)])


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_packages.write_onnx(
        tmp_path, model_packages.member(tmp_path, model_packages.network(16), 16)
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pacs-node\[onnx\]"):
        package.load(folder)
