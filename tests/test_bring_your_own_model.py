"""A third-party model for another finding: the results use its codes and phrases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset
from safetensors.torch import save_file
from support import model_packages, phantom, validators

from pacs_node.analyze import package
from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.config import Settings
from pacs_node.filemode import analyze_files
from pacs_node.roles.worker import served_classifier


@pytest.fixture(autouse=True)
def _programs(tool: Callable[[str], Path]) -> None:
    tool("dciodvfy")
    tool("dsrdump")


def onnx_package(folder: Path) -> Path:
    return model_packages.write_onnx(folder, model_packages.member(folder, model_packages.network(16), 16))


def occlusion_package(folder: Path) -> Path:
    return model_packages.write_onnx(
        folder, model_packages.member(folder, model_packages.network(16), 32, layer="occlusion")
    )


def ensemble_package(folder: Path) -> Path:
    """Two untrained networks of two architectures, each image also mirrored."""
    folder.mkdir()
    torch.manual_seed(0)
    members = []
    for name in ("squeezenet1_0", "resnet18"):
        known, path = ARCHITECTURES[name], folder / f"{name}.safetensors"
        save_file(known.build().state_dict(), path)
        members.append(
            package.Member(
                architecture=name,
                weights=path.name,
                weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                heat_map=known.grid,
            )
        )
    return model_packages.write_onnx(folder, *members, mirror=True)


def analyze(folder: Path, model: Path, threshold: float) -> tuple[str, Dataset, Dataset]:
    """Analyze a phantom; the output, the report and the capture, both validated."""
    settings = Settings.model_validate({"model": {"path": model, "device": "cpu", "threshold": threshold}})
    phantom.dataset(1, rows=320, columns=256).save_as(folder / "image.dcm", enforce_file_format=True)
    (answer,) = analyze_files([folder / "image.dcm"], settings, served_classifier(settings), folder)
    report, capture = folder / "image.dcm.sr.dcm", folder / "image.dcm.sc.dcm"
    assert validators.dciodvfy(report) + validators.dsrdump(report) == []
    assert validators.dciodvfy(capture) == []
    return answer.text, dcmread(report), dcmread(capture)


@pytest.mark.parametrize(
    ("write", "explanation", "code"),
    [
        (onnx_package, "the network's own map", "130401"),
        (occlusion_package, "occlusion sensitivity", "130401"),
        (ensemble_package, "Grad-CAM", "130403"),
    ],
)
def test_results_use_the_models_codes_and_phrases(
    write: Callable[[Path], Path], explanation: str, code: str, tmp_path: Path
) -> None:
    text, report, capture = analyze(tmp_path, write(tmp_path / "model"), threshold=0.0001)
    assert report.SeriesDescription.startswith("AI: Foreign body suspected, ")
    assert "Bright 2.0" not in report.SeriesDescription
    assert "Finding: Foreign body" in text
    assert "Foreign body: Present" in text
    assert "Algorithm Name: Bright\n" in text
    assert "polyline" in text
    named = {
        (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
        for element in report.iterall()
        if element.keyword in ("ConceptCodeSequence", "ConceptNameCodeSequence")
        for item in element.value
    }
    assert ("19227008", "SCT", "Foreign body") in named
    assert not any("racture" in meaning for _, _, meaning in named)
    assert "racture" not in text
    assert capture.SeriesDescription == f"AI heat map ({explanation}), research use only"
    assert f"Heat map ({explanation}) of Bright 2.0+sha256:" in capture.DerivationDescription
    assert [item.CodeValue for item in capture.DerivationCodeSequence] == [code]


def test_a_negative_report_uses_the_models_phrases(tmp_path: Path) -> None:
    text, report, _ = analyze(tmp_path, onnx_package(tmp_path / "model"), threshold=0.9999)
    assert report.SeriesDescription == "AI: no foreign body suspected"
    assert "Only what is bright was looked for." in text
    assert "Foreign body: Absent" in text
    assert "Finding: Foreign body" not in text
