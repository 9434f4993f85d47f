"""A package is served only if it is whole."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pacs_node.analyze import package
from pacs_node.analyze.architectures import ARCHITECTURES, HeatMapGrid
from pacs_node.analyze.networks import TorchNetwork
from pacs_node.errors import ModelError

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "models").glob("*/model.toml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A package of random weights."""
    torch.manual_seed(0)
    save_file(ARCHITECTURES["squeezenet1_0"].build().state_dict(), tmp_path / package.WEIGHTS)
    manifest = package.Manifest(
        id="random",
        name='Random "quoted" Größe',
        version="0",
        architecture="squeezenet1_0",
        labels=("no pneumothorax", "pneumothorax"),
        threshold=0.25,
        weights_sha256=hashlib.sha256((tmp_path / package.WEIGHTS).read_bytes()).hexdigest(),
        input=package.Input(size=128, stretch=(1, 99)),
        calibration=package.Calibration(slope=1.5, intercept=-1e-06),
        heat_map=HeatMapGrid(layer="features.12", stride=16, origin=17.5),
        finding=package.Concept(
            value="36118008",
            scheme="SCT",
            meaning="Pneumothorax",
            positive="Pneumothorax suspected",
            negative="no pneumothorax suspected",
            caveat="This does not exclude a pneumothorax.",
        ),
        provenance=package.Provenance(data="none", data_license="none", citation="none", pretrained="none"),
    )
    (tmp_path / package.MANIFEST).write_text(package.as_toml(manifest), encoding="utf-8")
    return tmp_path


def edit(folder: Path, old: str, new: str) -> None:
    """Change a line of model.toml."""
    path = folder / package.MANIFEST
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_written_package_is_read_back(folder: Path) -> None:
    loaded = package.load(folder)
    assert loaded.manifest.name == 'Random "quoted" Größe'
    assert loaded.manifest.calibration.intercept == -1e-06
    assert loaded.identity.threshold == 0.25
    assert loaded.identity.finding.meaning == "Pneumothorax"
    (network,) = loaded.networks
    assert isinstance(network, TorchNetwork)
    assert not network.module.training
    assert not any(parameter.requires_grad for parameter in network.module.parameters())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threshold = 0.25", "threshold = 25", "threshold"),
        ("threshold = 0.25", 'threshold = 0.25\ncolour = "red"', "colour"),
        ("threshold = 0.25", "", "threshold"),
        ("size = 128", "size = 128\nmean = 0.4", r"input\.mean"),
        ("size = 128", "size = 128\nmean = [0.4]", "one value for each channel"),
        ("[1.0, 99.0]", "[99.0, 1.0]", "percentiles"),
        ("squeezenet1_0", "resnet", "known: .*squeezenet1_0.*, onnx"),
        ("origin = 17.5", "origin = 8.0", "17.5"),
        ("features.12", "features.11", r"features\.12"),
        ('["no pneumothorax", "pneumothorax"]', '["pneumothorax"]', "labels"),
        ('value = "36118008"', 'value = "a code of more than sixteen"', r"finding\.value"),
        ("size = 128", "size = 128\nmirror = 3", r"input\.mirror"),
        ("size = 128", "size = 128\nmean = [0.5]\nstd = [0.5]", r"input\.mean: is for onnx"),
        ('architecture = "squeezenet1_0"', 'architecture = "squeezenet1_0"\nweights = "../a"', "weights"),
        ("[input]", "[input", "not valid TOML"),
    ],
)
def test_a_wrong_manifest_is_refused(old: str, new: str, message: str, folder: Path) -> None:
    edit(folder, old, new)
    with pytest.raises(ModelError, match=message):
        package.load(folder)


def test_changed_weights_are_refused(folder: Path) -> None:
    content = bytearray((folder / package.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / package.WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match="sha256"):
        package.load(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    weights = ARCHITECTURES["squeezenet1_0"].build().state_dict()
    weights["features.0.weight"] = torch.zeros(96, 3, 7, 7)
    old = hashlib.sha256((folder / package.WEIGHTS).read_bytes()).hexdigest()
    save_file(weights, folder / package.WEIGHTS)
    edit(folder, old, hashlib.sha256((folder / package.WEIGHTS).read_bytes()).hexdigest())
    with pytest.raises(ModelError, match=r"features\.0\.weight"):
        package.load(folder)


@pytest.mark.parametrize("name", [package.WEIGHTS, package.MANIFEST])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        package.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('version = "0"', 'version = "1"', True),
        ('data = "none"', 'data = "some"', True),
        ("slope = 1.5", "slope = 1.6", False),
        ("threshold = 0.25", "threshold = 0.26", False),
        ("size = 128", "size = 129", False),
        ("size = 128", "size = 128\nmirror = true", False),
        ("size = 128", "size = 128\nmirror = false", True),
    ],
)
def test_the_identity_covers_what_changes_answers(old: str, new: str, same: bool, folder: Path) -> None:
    before = package.load(folder).identity.sha256
    edit(folder, old, new)
    assert (package.load(folder).identity.sha256 == before) is same


def test_the_identity_is_that_of_what_is_written(folder: Path) -> None:
    """Keys that came later and are not used leave it as it was, so that no stored finding is made again."""
    written = tomllib.loads((folder / package.MANIFEST).read_text(encoding="utf-8"))
    for key in ("id", "name", "version", "provenance"):
        del written[key]
    digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()
    assert package.load(folder).identity.sha256 == digest


@pytest.mark.parametrize("manifest", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_packages_load(manifest: Path) -> None:
    identity = package.load(manifest.parent).identity
    assert identity.id == manifest.parent.name
    sizes = [weights.stat().st_size for weights in manifest.parent.glob("*.safetensors")]
    assert max(sizes) < 6_000_000
    assert sum(sizes) < 30_000_000
