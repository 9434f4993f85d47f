"""Studies with images outside the model's scope."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForProcessing,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from support import phantom, validators, viewer_rules
from support.bench import Bench
from support.brightness import Brightness

from pacs_node import config, filemode
from pacs_node.dicom import reading
from pacs_node.errors import DecodeError
from pacs_node.records import ModelIdentity, Prediction
from pacs_node.report.sr import as_text


@dataclass
class Picky(Brightness):
    """A model of wrists, to which images whose mean brightness exceeds `limit` are unknown."""

    limit: float = 0.8
    scope_limit: float = 1.0

    @property
    def identity(self) -> ModelIdentity:
        return replace(super().identity, body_parts=("WRIST",), scope_limit=self.scope_limit)

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        predictions = super().predict(images)
        return [
            replace(prediction, scope=round(float(image.mean()) / self.limit, 4))
            for prediction, image in zip(predictions, images, strict=True)
        ]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, Picky())
    yield bench
    bench.close()


def white(image: FileDataset) -> FileDataset:
    """The same object with an almost white image."""
    pixels = np.full((image.Rows, image.Columns), 4095, np.uint16)
    pixels[:16] = np.linspace(0, 4095, image.Columns)
    image.PixelData = pixels.tobytes()
    del image.WindowCenter, image.WindowWidth
    return image


def test_a_study_with_one_image_out_of_scope_is_partial(bench: Bench) -> None:
    known, strange = phantom.two_views(1, rows=160, columns=128)
    bench.receive(known, white(strange))
    bench.work()
    (report,) = bench.results(known, "SR")
    assert report.CompletionFlag == "PARTIAL"
    assert "1 of 2 X-rays analyzed" in report.SeriesDescription
    assert "outside the model's scope: the image is unlike those that it knows" in as_text(report)
    failed = bench.events("analysis_failed", known)[0].details
    assert failed["scope"] > 1
    assert "probability" not in json.dumps(failed)
    assert 0 < bench.events("analyzed", known)[0].details["scope"] < 1
    assert len(bench.results(known, "SC")) == 1


def test_a_study_wholly_out_of_scope_gets_the_failure_report(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.receive(strange)
    bench.work()
    (report,) = bench.results(strange, "SR")
    assert report.SeriesDescription == "AI: NOT ANALYZED"
    assert "outside the model's scope" in as_text(report)
    assert "%" not in as_text(report)


def test_a_study_of_another_body_part_is_skipped(bench: Bench) -> None:
    chest = phantom.dataset(1, rows=160, columns=128)
    chest.BodyPartExamined = "CHEST"
    bench.receive(chest)
    bench.work()
    study = bench.study(chest)
    assert study["state"] == "SKIPPED"
    assert "1 x outside the model's scope: body part CHEST" in study["reason"]
    assert not study["results"]
    assert (
        bench.events("analysis_skipped", chest)[0].details["reason"]
        == "outside the model's scope: body part CHEST"
    )


def test_with_the_check_off_the_report_says_so(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.model = Picky(scope_limit=0)
    bench.receive(strange)
    bench.work()
    (report,) = bench.results(strange, "SR")
    assert "NOT ANALYZED" not in report.SeriesDescription
    assert "Whether the model knows images of this kind was not checked." in as_text(report)
    assert "scope_limit=0" in report.to_json()


def test_a_looser_limit_is_among_the_reported_parameters(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.model = Picky(scope_limit=3)
    bench.receive(strange)
    bench.work()
    (report,) = bench.results(strange, "SR")
    assert "NOT ANALYZED" not in report.SeriesDescription
    assert "was not checked" not in as_text(report)
    assert "scope_limit=3" in report.to_json()


def report_of(bench: Bench, image: Dataset) -> Dataset:
    """The only report of an image's study."""
    (report,) = bench.results(image, "SR")
    return report


def xrays(count: int, *changes: dict[str, Any]) -> list[FileDataset]:
    """Wrists of one study, numbered; the last ones differ as stated, so that they are not analyzed."""
    images = [phantom.dataset(1, rows=160, columns=128) for _ in range(count)]
    for number, image in enumerate(images, 1):
        image.InstanceNumber = number
        image.SOPInstanceUID = UID(f"{image.StudyInstanceUID}.{number}")
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    for image, change in zip(images[count - len(changes) :], changes, strict=True):
        for keyword, value in change.items():
            setattr(image, keyword, value)
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    return images


DERIVED = {"ImageType": ["DERIVED", "SECONDARY"]}
FILM = {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT", "ConversionType": "DF"}
FOR_PROCESSING = {"SOPClassUID": DigitalXRayImageStorageForProcessing}
SILENT: list[dict[str, Any]] = [
    {"SOPClassUID": CTImageStorage, "Modality": "CT"},
    {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT", "ConversionType": "WSD"},
    {"SOPClassUID": KeyObjectSelectionDocumentStorage, "Modality": "KO"},
    {"SOPClassUID": ComputedRadiographyImageStorage, "Modality": "MG"},
]


@pytest.mark.parametrize("iod", ["comprehensive", "comprehensive3d"])
def test_skipped_xrays_are_named_and_make_the_report_partial(bench: Bench, iod: str) -> None:
    bench.settings = bench.settings.model_copy(
        update={"report": config.ReportSettings.model_validate({"iod": iod})}
    )
    images = xrays(9, DERIVED, FILM, {"Modality": "RG"}, {"BodyPartExamined": "PELVIS"}, *SILENT)
    bench.receive(*images)
    bench.work()
    report = report_of(bench, images[0])
    assert (report.CompletionFlag, report.CompletionFlagDescription) == ("PARTIAL", "1 of 5 X-rays analyzed")
    assert report.SeriesDescription.endswith("1 of 5 X-rays analyzed")
    text = as_text(report)
    assert "1 of 5 X-rays analyzed, 4 NOT ANALYZED." in text
    assert "Summary: Not all algorithms succeeded; with" in text
    assert [line.strip() for line in text.splitlines() if ": NOT ANALYZED: " in line] == [
        "Comment: Image 2, PA: NOT ANALYZED: ImageType DERIVED\\SECONDARY",
        "Comment: Image 3, PA: NOT ANALYZED: Secondary Capture Image Storage is not accepted",
        "Comment: Image 4, PA: NOT ANALYZED: modality RG is not accepted",
        "Comment: Image 5, PA: NOT ANALYZED: outside the model's scope: body part PELVIS",
    ]
    assert len(bench.results(images[0], "SC")) == 1
    path = bench.settings.storage.path / "report.dcm"
    report.save_as(path)
    assert validators.dciodvfy(path) == []
    assert len(viewer_rules.ohif(report)) >= 1


def test_what_is_no_xray_neither_counts_nor_makes_the_report_partial(bench: Bench) -> None:
    images = xrays(5, *SILENT)
    bench.receive(*images)
    bench.work()
    report = report_of(bench, images[0])
    assert report.CompletionFlag == "COMPLETE"
    assert "X-rays" not in as_text(report)


def test_a_skipped_xray_that_comes_late_amends_the_report_and_our_own_results_do_not(bench: Bench) -> None:
    first, late, screenshot = xrays(3, FILM, SILENT[1])
    bench.receive(first)
    bench.work()
    before = report_of(bench, first)
    assert before.CompletionFlag == "COMPLETE"
    own = [dcmread(bench.files.path(result["sha256"])) for result in bench.study(first)["results"]]
    bench.receive(screenshot, *own)
    bench.work()
    assert len(bench.study(first)["reports"]) == 1
    for _ in range(2):
        bench.receive(late)
        bench.work()
        reports = bench.study(first)["reports"]
        assert len(reports) == 2
        amended = dcmread(bench.files.path(reports[1]["sr_sha256"]))
        assert amended.SOPInstanceUID != before.SOPInstanceUID
        assert amended.SeriesDescription.startswith("AMENDED")
        assert amended.CompletionFlagDescription == "1 of 2 X-rays analyzed"


def test_of_a_skipped_xray_only_the_newest_version_counts(bench: Bench) -> None:
    first, second, same = xrays(3, DERIVED, DERIVED)
    same.SOPInstanceUID = same.file_meta.MediaStorageSOPInstanceUID = second.SOPInstanceUID
    same.StudyDescription = "corrected"
    bench.receive(first, second, same)
    bench.work()
    assert report_of(bench, first).CompletionFlagDescription == "1 of 2 X-rays analyzed"


def test_an_image_from_which_an_analyzed_one_was_made_counts_as_analyzed(bench: Bench) -> None:
    first, raw, other = xrays(3, FOR_PROCESSING, FOR_PROCESSING)
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = raw.SOPClassUID, raw.SOPInstanceUID
    first.SourceImageSequence = [reference]
    bench.receive(first, raw)
    bench.work()
    assert report_of(bench, first).CompletionFlag == "COMPLETE"
    bench.receive(other)
    bench.work()
    last = bench.study(first)["reports"][-1]
    assert "1 of 2 X-rays analyzed" in last["summary"]


def test_a_study_of_which_every_xray_is_skipped_stays_silent(bench: Bench) -> None:
    images = xrays(2, DERIVED, FILM)
    bench.receive(*images)
    bench.work()
    study = bench.study(images[0])
    assert (study["state"], study["results"]) == ("SKIPPED", [])
    assert study["reason"] == (
        "nothing to analyze: 1 x ImageType DERIVED\\SECONDARY; "
        "1 x Secondary Capture Image Storage is not accepted"
    )


def test_an_old_study_is_not_opened_again(bench: Bench) -> None:
    (image,) = xrays(1)
    image.StudyDate = "20270101"
    bench.receive(image)
    bench.work()
    rules = bench.settings.study.model_copy(update={"max_study_age_days": 1})
    bench.settings = bench.settings.model_copy(update={"study": rules})
    (_, late) = xrays(2, DERIVED)
    late.StudyDate = "20000101"
    bench.receive(late)
    bench.work()
    assert len(bench.study(image)["reports"]) == 1
    assert bench.study(image)["state"] == "READY"


def test_a_skipped_xray_of_another_patient_is_an_identity_conflict(bench: Bench) -> None:
    first, film = xrays(2, FILM | {"PatientID": "SOMEBODY ELSE"})
    bench.receive(first, film)
    bench.work()
    study = bench.study(first)
    assert (study["state"], study["results"]) == ("FAILED", [])
    assert "identity conflict" in study["reason"]


def test_a_skipped_xray_that_cannot_be_read_again_does_not_stop_the_report(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = xrays(2, {"Modality": "RG"})
    whole = reading.header

    def header(path: Path) -> FileDataset:
        read = whole(path)
        if read.Modality == "RG":
            raise DecodeError("cut in the middle")
        return read

    monkeypatch.setattr(reading, "header", header)
    bench.receive(first, second)
    bench.work()
    assert "NOT ANALYZED: modality RG is not accepted" in as_text(report_of(bench, first))


def test_the_same_is_said_of_files(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    images = xrays(5, SILENT[0], DERIVED, {"BodyPartExamined": "PELVIS"}, {"Modality": "RG"})
    paths = []
    # The first file is not the first that is analyzed, after which the results are named.
    for image in reversed(images):
        paths.append(folder / f"{image.InstanceNumber}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    (answer,) = filemode.analyze_files(paths, bench.settings, Picky(), tmp_path)
    assert not answer.failed
    assert answer.files == 5
    assert "1 of 4 X-rays analyzed, 3 NOT ANALYZED." in answer.text
    for number, why in ((2, "not an X-ray image"), (3, "ImageType"), (4, "outside"), (5, "modality RG")):
        assert f"{number}.dcm: skipped: {why}" in answer.text
    assert "Image 2" not in answer.text
    assert dcmread(tmp_path / "1.dcm.sr.dcm").CompletionFlag == "PARTIAL"
    document = json.loads((tmp_path / "1.dcm.json").read_text())
    assert [image["failure"] is None for image in document["images"]] == [True, False, False, False]
    (nothing,) = filemode.analyze_files(paths[:1], bench.settings, Picky(), tmp_path)
    assert nothing.text.endswith("5.dcm: skipped: modality RG is not accepted")


def test_a_skipped_xray_without_patient_id_is_no_identity_conflict(bench: Bench) -> None:
    first, film = xrays(2, FILM | {"PatientID": ""})
    bench.receive(first, film)
    bench.work()
    assert report_of(bench, first).CompletionFlagDescription == "1 of 2 X-rays analyzed"


def test_an_analyzed_image_without_patient_id_is_an_identity_conflict(bench: Bench) -> None:
    first, second = xrays(2, {"PatientID": ""})
    bench.receive(first, second)
    bench.work()
    assert "identity conflict" in bench.study(first)["reason"]
