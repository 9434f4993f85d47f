"""Studies for a viewer: phantoms that went through the pipeline, with a model that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from pacs_node import config, pipeline
from pacs_node.demo import phantom
from pacs_node.files import FileStore
from pacs_node.heatmap import HeatMap
from pacs_node.records import (
    ImageResult,
    Instance,
    InstanceState,
    ModelIdentity,
    Predecessor,
    Prediction,
    ReportRequest,
)
from support.report_studies import MODEL, NODE

ROWS, COLUMNS = 640, 512
CELLS = (10, 8)
HOT = (5, 4)
"""Row and column of the cell that the model points at: on the break in the lateral view."""
BOX = (256.0, 320.0, 320.0, 384.0)
"""Left, top, right and bottom of that cell in pixels of the image."""


@dataclass
class Told:
    """A model that says these probabilities, one image after the other, and always points at `HOT`."""

    probabilities: Sequence[float]
    identity: ModelIdentity = MODEL

    def stats(self) -> dict[str, float]:
        """Nothing for /metrics."""
        return {}

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """One prediction for each image."""
        values = np.zeros(CELLS, np.float32)
        values[HOT] = 1
        step = (COLUMNS / CELLS[1], ROWS / CELLS[0])
        heat = HeatMap(values, (step[0] / 2, step[1] / 2), step)
        return [Prediction(said, heat) for said, _ in zip(self.probabilities, images, strict=True)]


@dataclass
class Reported:
    """A study as the PACS has it at the end."""

    sources: list[FileDataset]
    captures: list[Dataset]
    reports: list[Dataset]
    """One, or with amended ones several, the newest last."""

    @property
    def uid(self) -> str:
        """StudyInstanceUID."""
        return str(self.sources[0].StudyInstanceUID)

    @property
    def objects(self) -> list[Dataset]:
        """All of it."""
        return [*self.sources, *self.captures, *self.reports]


def positive(folder: Path) -> Reported:
    """Two views of a right wrist; only the lateral one shows a fracture, the first image does not."""
    sources = phantom.two_views(21, fractured=True, rows=ROWS, columns=COLUMNS)
    return _report(folder, sources, [0.12, 0.87])


def negative(folder: Path) -> Reported:
    """One CR image, MONOCHROME1, of a left wrist."""
    source = phantom.dataset(
        22, rows=ROWS, columns=COLUMNS, laterality="L", kind="CR", photometric="MONOCHROME1"
    )
    return _report(folder, [source], [0.08])


def amended(folder: Path) -> Reported:
    """A negative first image, then a late lateral view with a fracture: two reports."""
    first, late = phantom.two_views(23, fractured=True, rows=ROWS, columns=COLUMNS, kind="CR")
    before = _report(folder, [first], [0.12])
    (replaced,) = before.reports
    predecessor = Predecessor(
        series_instance_uid=replaced.SeriesInstanceUID,
        sop_instance_uid=replaced.SOPInstanceUID,
        sop_class_uid=replaced.SOPClassUID,
        created_at=_CREATED,
    )
    after = _report(folder, [first, late], [0.12, 0.93], predecessor)
    known = {capture.SOPInstanceUID for capture in before.captures}
    new = [capture for capture in after.captures if capture.SOPInstanceUID not in known]
    return Reported(after.sources, [*before.captures, *new], [replaced, *after.reports])


def failed(folder: Path) -> Reported:
    """One image whose pixel data was cut off: there is nothing to analyze."""
    source = phantom.dataset(24, rows=ROWS, columns=COLUMNS)
    source.PixelData = source.PixelData[: ROWS * COLUMNS]
    return _report(folder, [source], [])


def displayed(source: FileDataset) -> NDArray[np.uint8]:
    """A phantom as any viewer must show it, RGB: its linear window (PS3.3 C.11.2.1.2), bones bright."""
    centre, width = float(source.WindowCenter), float(source.WindowWidth)
    level = (source.pixel_array - (centre - 0.5)) / (width - 1) + 0.5
    level = 1 - level if source.PhotometricInterpretation == "MONOCHROME1" else level
    return np.repeat((np.clip(level, 0, 1) * 255).astype(np.uint8)[:, :, None], 3, axis=2)


_CREATED = 1_790_000_000.0


def _report(
    folder: Path,
    sources: list[FileDataset],
    probabilities: list[float],
    predecessor: Predecessor | None = None,
) -> Reported:
    """Analyze and report a study as the worker does, without its journal."""
    files = FileStore(folder)
    instances = [_stored(files, source, number) for number, source in enumerate(sources, 1)]
    analyses = pipeline.analyze_instances(instances, files.path, Told(probabilities))
    images = [
        ImageResult(
            analysis.instance,
            dcmread(files.path(analysis.instance.sha256), stop_before_pixels=True),
            analysis.finding,
            analysis.failure,
        )
        for analysis in analyses
    ]
    request = ReportRequest(
        node=NODE,
        model=MODEL,
        study_instance_uid=str(sources[0].StudyInstanceUID),
        revision=1 if predecessor is None else 2,
        created_at=_CREATED + (600 if predecessor else 0),
        images=tuple(images),
        predecessor=predecessor,
    )
    made = pipeline.report_study(request, files, config.ReportSettings())
    stored = [dcmread(files.path(result.sha256)) for result in made.results]
    return Reported(
        sources,
        [one for one in stored if one.Modality == "OT"],
        [one for one in stored if one.Modality == "SR"],
    )


def _stored(files: FileStore, source: FileDataset, number: int) -> Instance:
    kept = files.put(pipeline.encoded(source))
    return Instance(
        id=number,
        study_id=1,
        study_instance_uid=str(source.StudyInstanceUID),
        series_instance_uid=str(source.SeriesInstanceUID),
        sop_instance_uid=str(source.SOPInstanceUID),
        sop_class_uid=str(source.SOPClassUID),
        modality=str(source.Modality),
        patient_id=str(source.PatientID),
        sha256=kept.sha256,
        received_at=_CREATED - 60 + number,
        calling_ae_title="MODALITY",
        called_ae_title="PACSNODE",
        address="127.0.0.1",
        size=kept.size,
        transfer_syntax_uid=str(source.file_meta.TransferSyntaxUID),
        state=InstanceState.RECEIVED,
        reason=None,
        attempts=1,
    )
