"""Images and labels of a data set: `manifest.csv`, `images/` and, for the pointing game, `regions.json`.

The manifest has a row for each image with at least `image`, `split` (train, val or test), `fractured` (0 or
1) and `group`; images of one group (one patient, or near-duplicates) must share a split.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pacs_node.analyze import pixels
from pacs_node.analyze.decode import Decoded
from pacs_node.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of the data set."""

    path: Path
    fractured: bool
    group: str
    boxes: tuple[tuple[float, float, float, float], ...]
    """Fractures marked in it: left, top, width, height in pixels; empty where unmarked."""


def load(folder: Path, split: str) -> list[Sample]:
    """The samples of one split in the manifest's order.

    Raises InputError where the manifest is missing or lacks a value, or where a group is in two splits.
    """
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise InputError(f"{manifest}: no such file; a data set has a manifest.csv beside its images/")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    regions = folder / "regions.json"
    marked = json.loads(regions.read_text(encoding="utf-8")) if regions.is_file() else {}
    samples: list[Sample] = []
    split_of: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        missing = [column for column in ("image", "split", "fractured", "group") if not row.get(column)]
        if missing:
            raise InputError(f"{manifest}:{number}: no value for {', '.join(missing)}")
        if row["split"] not in SPLITS or row["fractured"] not in ("0", "1"):
            raise InputError(f"{manifest}:{number}: split must be one of {SPLITS}, fractured 0 or 1")
        if split_of.setdefault(row["group"], row["split"]) != row["split"]:
            raise InputError(f"{manifest}:{number}: group {row['group']} is in two splits")
        if row["split"] == split:
            left_top_width_height = tuple(tuple(mark["bbox"]) for mark in marked.get(row["image"], ()))
            samples.append(
                Sample(
                    path=folder / "images" / row["image"],
                    fractured=row["fractured"] == "1",
                    group=row["group"],
                    boxes=left_top_width_height,
                )
            )
    return samples


def display(path: Path) -> NDArray[np.float32]:
    """A JPEG or PNG through the pixel chain that serves: float32 (rows, columns), 0..1. Raises InputError."""
    stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if stored is None:
        raise InputError(f"{path}: not an image that can be read")
    header = Dataset()
    header.PhotometricInterpretation = "MONOCHROME2"
    decoded = Decoded(header=header, pixels=stored.astype(np.uint8), content_key="")
    return pixels.prepare(decoded).display


def network_inputs(samples: Sequence[Sample], size: int, stretch: tuple[float, float]) -> NDArray[np.float32]:
    """The network's inputs for these samples: float32 (samples, size, size), 0..1. Raises InputError."""
    inputs = np.empty((len(samples), size, size), np.float32)
    for index, sample in enumerate(samples):
        inputs[index] = pixels.letterbox(display(sample.path), size, stretch)[0]
    return inputs
