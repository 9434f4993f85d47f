"""The guard: an image that the model does not know gets a reason, and no probability."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from sklearn.datasets import load_sample_images
from support import phantom
from support.model_packages import write_untrained

from pacs_node import pipeline
from pacs_node.analyze import decode, package, pixels
from pacs_node.analyze.classifier import Classifier
from pacs_node.config import Settings
from pacs_node.dicom import phantom as shipped
from pacs_node.errors import ModelError
from pacs_node.filemode import analyze_files
from pacs_node.records import Analysis, Instance, InstanceState
from pacs_node.training import dataset, publish
from pacs_node.training.dataset import Sample

MODEL = Path(__file__).resolve().parents[2] / "models" / "fracture-squeezenet-2"

Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """The shipped model on the CPU."""
    return Classifier(package.load(MODEL), "cpu")


def scores(classifier: Classifier, images: list[Image]) -> list[float]:
    found = [prediction.scope for prediction in classifier.predict(images)]
    assert all(isinstance(score, float) for score in found)
    return [score for score in found if score is not None]


def photographs() -> list[Image]:
    return [
        np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32) / np.float32(255)
        for picture in load_sample_images().images  # type: ignore[no-untyped-call]
    ]


def drawn() -> dict[str, Image]:
    """What is no radiograph."""
    rng = np.random.default_rng(3)
    paper = np.full((600, 450), 255, np.uint8)
    for row in range(30, 580, 24):
        cv2.putText(paper, "no fracture of the radius", (20, row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 0, 2)
    page = (paper / 255).astype(np.float32)
    rows, columns = np.mgrid[:500, :400].astype(np.float32)
    return {
        "uniform noise": rng.random((500, 400), np.float32),
        "normal noise": np.clip(rng.normal(0.5, 0.15, (400, 500)), 0, 1).astype(np.float32),
        "a page of text": page,
        "the page in white on black": 1 - page,
        "a gradient": (rows + columns) / np.float32(898),
        "stripes": 0.5 + 0.5 * np.sin(columns / 3),
        "white": np.ones((400, 400), np.float32),
        "nothing but the noise of a detector": np.clip(rng.normal(0.02, 0.002, (500, 400)), 0, 1).astype(
            np.float32
        ),
    }


def test_what_is_no_radiograph_is_out_of_scope(classifier: Classifier) -> None:
    pictures = drawn()
    # White becomes black: where all pixels are alike, there is nothing to stretch.
    pictures["white"][:100] = 0
    found = dict(zip(pictures, scores(classifier, list(pictures.values())), strict=True))
    assert {name for name, score in found.items() if score <= 1} == set()
    assert min(scores(classifier, photographs())) > 1


def test_what_the_demo_shows_is_in_scope(classifier: Classifier, tmp_path: Path) -> None:
    shown = [tmp_path / f"{number}.dcm" for number in range(4)]
    for path, image in zip(shown, [*shipped.fractured_right(), *shipped.sound_left()], strict=True):
        image.save_as(path, enforce_file_format=True)
    assert max(scores(classifier, [dataset.display(path) for path in shown])) < 1


def test_radiographs_of_the_test_split_are_in_scope_and_inverted_ones_are_not(
    classifier: Classifier, data_dir: Path
) -> None:
    with (data_dir / "fracatlas" / "manifest.csv").open(newline="") as file:
        names = [row["image"] for row in csv.DictReader(file) if row["split"] == "test"][::40]
    images = [dataset.display(data_dir / "fracatlas" / "images" / name) for name in names]
    assert len(images) >= 15
    assert max(scores(classifier, images)) < 1
    assert np.mean(np.array(scores(classifier, [1 - image for image in images])) > 1) > 0.8


def test_a_chest_is_out_of_scope_by_its_pixels_alone(classifier: Classifier, data_dir: Path) -> None:
    chest = decode.read(data_dir / "dicom" / "RG1_J2KI.dcm")
    assert scores(classifier, [pixels.prepare(chest).display])[0] > 1.5


def test_a_score_does_not_depend_on_the_batch(classifier: Classifier) -> None:
    images = [*photographs(), (phantom.radiograph(3, False, 640, 512) / 4095).astype(np.float32)]
    together = scores(classifier, images)
    for image, score in zip(images, together, strict=True):
        assert scores(classifier, [image])[0] == pytest.approx(score, rel=1e-3)


def analyzed(path: Path, classifier: Classifier) -> Analysis:
    header = dcmread(path, stop_before_pixels=True)
    instance = Instance(
        id=1,
        study_id=1,
        state=InstanceState.RECEIVED,
        reason=None,
        attempts=0,
        sha256="ab" * 32,
        size=1,
        received_at=0.0,
        calling_ae_title="PACS",
        called_ae_title="NODE",
        address="127.0.0.1",
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=header.SeriesInstanceUID,
        sop_instance_uid=header.SOPInstanceUID,
        sop_class_uid=header.SOPClassUID,
        transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
        modality=header.Modality,
        patient_id="1",
    )
    (analysis,) = pipeline.analyze_instances([instance], lambda _: path, classifier)
    return analysis


@pytest.fixture
def photograph(make_image: Callable[..., Dataset], save: Callable[[Dataset], Path]) -> Path:
    return save(make_image((photographs()[0] * 255).astype(np.uint8)))


def test_an_image_out_of_scope_fails_with_the_reason_and_no_finding(
    classifier: Classifier, photograph: Path
) -> None:
    analysis = analyzed(photograph, classifier)
    assert analysis.failure == "outside the model's scope: the image is unlike those that it knows"
    assert analysis.finding is None
    assert not analysis.skipped
    assert analysis.scope is not None
    assert analysis.scope > 1


@pytest.mark.parametrize(("limit", "refused"), [(1.0, True), (0.5, True), (100.0, False), (0.0, False)])
def test_an_administrator_sets_the_limit(limit: float, refused: bool, photograph: Path) -> None:
    analysis = analyzed(photograph, Classifier(package.load(MODEL), "cpu", scope_limit=limit))
    assert (analysis.finding is None) is refused


def test_the_limit_is_part_of_what_a_stored_finding_is_valid_for() -> None:
    loaded = package.load(MODEL)
    keys = {Classifier(loaded, "cpu", scope_limit=limit).identity.key for limit in (1.0, 0.0, 1.5)}
    assert len(keys) == 3
    assert replace(loaded.identity, scope_limit=1.0).key == loaded.identity.key


@pytest.mark.parametrize(
    ("attributes", "skipped"),
    [
        ({"BodyPartExamined": "CHEST"}, "CHEST"),
        ({"BodyPartExamined": "c-spine"}, "CSPINE"),
        ({"BodyPartExamined": "ABDOMEN"}, "ABDOMEN"),
        ({"BodyPartExamined": "HAND"}, None),
        ({"BodyPartExamined": "HANDGELENK"}, None),
        ({"BodyPartExamined": ""}, None),
        ({}, None),
        ({"AnatomicRegionSequence": ("89546000", "SCT")}, "SKULL"),
        ({"AnatomicRegionSequence": ("85562004", "SCT")}, None),
        ({"AnatomicRegionSequence": ("89546000", "99LOCAL")}, None),
        ({"BodyPartExamined": "HAND", "AnatomicRegionSequence": ("89546000", "SCT")}, None),
    ],
)
def test_another_body_part_is_skipped_and_an_unknown_word_is_not(
    attributes: dict[str, object],
    skipped: str | None,
    classifier: Classifier,
    make_image: Callable[..., Dataset],
    save: Callable[[Dataset], Path],
) -> None:
    stated = {keyword: value for keyword, value in attributes.items() if isinstance(value, str)}
    image = make_image(phantom.radiograph(3, False, 640, 512), **stated)
    if isinstance(region := attributes.get("AnatomicRegionSequence"), tuple):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = region
        item.CodeMeaning = "A part"
        image.AnatomicRegionSequence = [item]
    analysis = analyzed(save(image), classifier)
    assert analysis.skipped is (skipped is not None)
    assert analysis.failure == (skipped and f"outside the model's scope: body part {skipped}")
    assert (analysis.finding is None) is (skipped is not None)


def test_with_the_check_off_every_body_part_is_analyzed(
    make_image: Callable[..., Dataset], save: Callable[[Dataset], Path]
) -> None:
    chest = make_image(phantom.radiograph(3, False, 640, 512), BodyPartExamined="CHEST")
    analysis = analyzed(save(chest), Classifier(package.load(MODEL), "cpu", scope_limit=0))
    assert analysis.finding is not None


def test_no_probability_leaves_with_a_refused_image(
    classifier: Classifier, photograph: Path, tmp_path: Path
) -> None:
    (answer,) = analyze_files([photograph], Settings(), classifier, tmp_path / "out")
    assert answer.failed
    assert "NOT ANALYZED: outside the model's scope" in answer.text
    assert "%" not in answer.text
    assert not list((tmp_path / "out").glob("*.png"))
    assert '"probability": null' in next((tmp_path / "out").glob("*.json")).read_text()


def test_files_of_another_body_part_are_told_as_skipped(
    classifier: Classifier,
    make_image: Callable[..., Dataset],
    save: Callable[[Dataset], Path],
    tmp_path: Path,
) -> None:
    wrist = make_image(phantom.radiograph(3, False, 640, 512), BodyPartExamined="WRIST")
    chest = make_image(phantom.radiograph(3, False, 640, 512), BodyPartExamined="CHEST")
    chest.StudyInstanceUID = wrist.StudyInstanceUID
    alone, both = save(chest), [save(wrist), save(chest)]
    (answer,) = analyze_files([alone], Settings(), classifier, tmp_path / "alone")
    assert answer.text == f"{alone}: skipped: outside the model's scope: body part CHEST"
    assert not answer.failed
    assert not (tmp_path / "alone").exists()
    (answer,) = analyze_files(both, Settings(), classifier, tmp_path / "both")
    assert f"{both[1]}: skipped: outside the model's scope: body part CHEST" in answer.text
    assert "1 of 2 X-rays analyzed, 1 NOT ANALYZED." in answer.text
    assert not answer.failed


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """A package whose guard knows phantoms; they lie beside it."""
    folder = write_untrained(tmp_path / "model")
    samples = []
    for seed in range(24):
        picture = (phantom.radiograph(seed, seed % 2 == 1, 160, 128) >> 4).astype(np.uint8)
        path = tmp_path / f"{seed}.png"
        cv2.imwrite(str(path), picture)
        samples.append(Sample(path, "train" if seed < 16 else "val", seed % 2 == 1, str(seed)))
    manifest = publish.fit_guard(folder, samples)
    assert manifest == package.read_manifest(folder)
    return folder


def test_a_guard_knows_what_it_was_fitted_to(fitted: Path) -> None:
    classifier = Classifier(package.load(fitted), "cpu")
    known = scores(classifier, [dataset.display(fitted.parent / f"{seed}.png") for seed in range(24)])
    assert max(known[16:]) == pytest.approx(1, abs=0.05)
    assert max(known[:16]) < 1
    assert min(scores(classifier, list(drawn().values())[:4])) > 2


def test_whitened_features_are_uncorrelated_and_of_variance_one() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) * [1, 10, 100, 1, 1, 1] + 5
    weights = rng.random(500)
    mean, whitening = publish.whitened(features, weights)
    told = (features - mean) @ whitening
    np.testing.assert_allclose(np.average(told, axis=0, weights=weights), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(told, rowvar=False, aweights=weights), np.eye(told.shape[1]), atol=0.01)
    assert 1 <= whitening.shape[1] <= 6


def test_a_package_without_a_guard_answers_everything(photograph: Path, tmp_path: Path) -> None:
    classifier = Classifier(package.load(write_untrained(tmp_path / "plain")), "cpu")
    analysis = analyzed(photograph, classifier)
    assert analysis.finding is not None
    assert analysis.scope is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("network = 0", "network = 1", r"scope\.network: the last of 1 is 0"),
        ('layer = "features.7"', 'layer = "features.70"', "no layer"),
        ("limit = ", "limit = -", r"scope\.limit"),
        ('file_sha256 = "', 'file_sha256 = "0', r"scope\.file_sha256"),
        ("[scope]", "[scope]\nfar = 1", r"scope\.far"),
    ],
)
def test_a_wrong_scope_is_refused(old: str, new: str, message: str, fitted: Path) -> None:
    path = fitted / package.MANIFEST
    text = path.read_text(encoding="utf-8")
    text = text.replace("[scope]\n", "[scope]\nnetwork = 0\n")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        package.load(fitted)


def test_a_changed_or_missing_guard_is_refused(fitted: Path) -> None:
    before = package.load(fitted).identity.sha256
    content = bytearray((fitted / "scope.safetensors").read_bytes())
    content[-1] ^= 1
    (fitted / "scope.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="sha256"):
        package.load(fitted)
    (fitted / "scope.safetensors").unlink()
    with pytest.raises(ModelError, match=r"scope\.safetensors: no such file"):
        package.load(fitted)
    unguarded = write_untrained(fitted)
    assert package.load(unguarded).identity.sha256 != before
