"""Studies for a viewer: phantoms that went through a node whose model answers as scripted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from support import phantom
from support.bench import Bench
from support.brightness import Brightness
from support.report_studies import MODEL

ROWS, COLUMNS = 640, 512
CELLS = (10, 8)
HOT = (5, 4)
"""Row and column of the cell that the model points at: on the break in the lateral view."""
BOX = (256.0, 320.0, 320.0, 384.0)
"""Left, top, right and bottom of that cell in pixels of the image."""


@dataclass
class Reported:
    """A study with its images and all results."""

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
        """Images and results."""
        return [*self.sources, *self.captures, *self.reports]


def positive(folder: Path) -> Reported:
    """Two views of a right wrist; only the lateral one shows a fracture, the first image does not."""
    sources = phantom.two_views(21, fractured=True, rows=ROWS, columns=COLUMNS)
    return _report(folder, sources, probabilities=[0.12, 0.87])


def negative(folder: Path) -> Reported:
    """One CR image, MONOCHROME1, of a left wrist."""
    source = phantom.dataset(
        22, rows=ROWS, columns=COLUMNS, laterality="L", kind="CR", photometric="MONOCHROME1"
    )
    return _report(folder, [source], probabilities=[0.08])


def amended(folder: Path) -> Reported:
    """A negative first image, then a late lateral view with a fracture: two reports."""
    first, late = phantom.two_views(23, fractured=True, rows=ROWS, columns=COLUMNS, kind="CR")
    return _report(folder, [first], [late], probabilities=[0.12, 0.93])


def failed(folder: Path) -> Reported:
    """One image whose pixel data was cut off, so that nothing can be analyzed."""
    source = phantom.dataset(24, rows=ROWS, columns=COLUMNS)
    source.PixelData = source.PixelData[: ROWS * COLUMNS]
    return _report(folder, [source])


def displayed(source: FileDataset) -> NDArray[np.uint8]:
    """A phantom in RGB as any viewer must show it: its linear window (PS3.3 C.11.2.1.2), bones bright."""
    centre, width = float(source.WindowCenter), float(source.WindowWidth)
    level = (source.pixel_array - (centre - 0.5)) / (width - 1) + 0.5
    level = 1 - level if source.PhotometricInterpretation == "MONOCHROME1" else level
    return np.repeat((np.clip(level, 0, 1) * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _report(folder: Path, *arrivals: list[FileDataset], probabilities: Sequence[float] = ()) -> Reported:
    """Analyze and report a study after each arrival of images."""
    model = Brightness(model=MODEL, probabilities=list(probabilities), cells=CELLS, hottest=HOT)
    bench = Bench(folder, model)
    for images in arrivals:
        uid = bench.receive(*images)
        bench.work()
    sources = [image for images in arrivals for image in images]
    reported = Reported(sources, bench.results(uid, "SC"), bench.results(uid, "SR"))
    bench.close()
    return reported
