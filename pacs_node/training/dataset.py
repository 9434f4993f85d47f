"""Data sets: images with labels, splits and groups, their pixels read as those of served images.

A data set is a table (`manifest.csv`, or `labels.csv` beside DICOM files) or a folder for each class, with or
without splits.
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from sklearn.model_selection import StratifiedGroupKFold

from pacs_node.analyze import decode, pixels
from pacs_node.analyze.package import DEFAULT_LABELS
from pacs_node.dicom.reading import parsing
from pacs_node.errors import InputError
from pacs_node.training import duplicates

SPLITS = ("train", "val", "test")
TWENTIETHS = 20
REFERENCES = ("image", "file", "sop_instance_uid")
"""Columns that name the image of a row: a file in images/, a file in the folder, a DICOM object."""
TRAITS = ("Manufacturer", "StationName", "Modality", "BodyPartExamined", "ViewPosition")
"""Attributes that become traits of a DICOM file."""
SUFFIXES = {".dcm", ".jpeg", ".jpg", ".png"}


@dataclass(frozen=True, slots=True)
class Mark:
    """A marked finding, in source pixels."""

    box: tuple[float, float, float, float]
    """Left, top, width, height."""
    polygon: tuple[tuple[float, float], ...]
    """The outline, (x, y); the corners of the box if only the box was marked."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set."""

    path: Path
    split: str
    """train, val or test."""
    positive: bool
    group: str
    """Images of one group (one patient, or near-duplicates) belong in one split."""
    marks: tuple[Mark, ...] = ()
    """May be empty in a positive image too."""
    traits: Mapping[str, str] = field(default_factory=dict)
    """The table's other columns; they define subgroups, and may be shortcuts to the label."""


def load(
    folder: Path,
    split: str | None = None,
    labels: Path | None = None,
    positive: str | None = None,
    seed: int = 0,
    names: tuple[str, str] = DEFAULT_LABELS,
) -> list[Sample]:
    """The samples of a data set, or of one of its splits, in the order of its table or of its paths.

    `labels` is the table of a folder without `manifest.csv` and `labels.csv`; `names` are the model's labels,
    negative and positive; `positive` is the positive class if it has another name; `seed` draws the splits of
    a data set without splits, by group. Raises InputError for an unknown layout or a wrong row of the table.
    """
    classes = Classes(names, positive)
    tables = [labels] if labels else [folder / "manifest.csv", folder / "labels.csv"]
    table = next((path for path in tables if path.is_file()), None)
    if labels and table is None:
        raise InputError(f"{labels}: no such file; it must be a CSV with a column {' or '.join(REFERENCES)}")
    samples = _from_table(folder, table, classes) if table else _from_folders(folder, classes)
    if not samples:
        raise InputError(f"{table or folder}: no images")
    undivided = [sample for sample in samples if not sample.split]
    if undivided and len(undivided) < len(samples):
        raise InputError(f"{table}: {len(undivided)} rows without a split; state it in all rows or in none")
    if undivided:
        samples = divide(samples, seed)
    return [sample for sample in samples if split in (None, sample.split)]


def divide(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """The same samples with splits of 70, 15 and 15 %, stratified by label and drawn by group.

    Groups that share an image or near-duplicates of one become one group. Raises InputError for fewer than 20
    groups or fewer than 20 images of a label.
    """
    discs = []
    for sample in samples:
        try:
            discs.append(duplicates.disc(display(sample.path)))
        except InputError:  # the data doctor reports it; a blank disc resembles no other
            discs.append(np.zeros((duplicates.SIDE, duplicates.SIDE), np.float32))
    first_of: dict[str, int] = {}
    of_group = [(first_of.setdefault(sample.group, index), index) for index, sample in enumerate(samples)]
    joined = duplicates.clusters(len(samples), [*of_group, *duplicates.find(discs)])
    labels = [sample.positive for sample in samples]
    if min(len(set(joined)), *np.bincount(labels, minlength=2)) < TWENTIETHS:
        raise InputError(
            f"{sum(labels)} positive images of {len(labels)} in {len(set(joined))} groups are too few to "
            f"draw splits from; state the splits, or have {TWENTIETHS} groups, positive and other images"
        )
    folds = StratifiedGroupKFold(TWENTIETHS, shuffle=True, random_state=seed)  # type: ignore[no-untyped-call]
    divided = list(samples)
    for number, (_, chosen) in enumerate(folds.split(labels, labels, joined)):  # type: ignore[no-untyped-call]
        split = "val" if number < 3 else "test" if number < 6 else "train"
        for index in chosen:
            divided[index] = replace(samples[index], split=split, group=samples[joined[index]].group)
    return divided


class Classes:
    """The meaning of labels and of the names of class folders."""

    def __init__(self, names: tuple[str, str], positive: str | None) -> None:
        """`names` are the negative and the positive label; `positive` replaces both."""
        self.names, self._stated = names, positive
        stem = names[1].removesuffix("d")
        self.positives = {"1", names[1], stem}
        self._negative = {"0", "normal", names[0]}
        self._negative |= {f"{no} {name}" for no in ("no", "not", "non") for name in (names[1], stem)}
        self.known_columns = {*REFERENCES, "label", "split", "group", names[1], f"{stem}_count"}
        """Columns that are not traits: the count of marks is the label again."""

    def is_positive(self, label: str, where: str) -> bool:
        """Whether a label is the positive one. Raises InputError if that is unclear."""
        if self._stated is not None:
            return label == self._stated
        plain = " ".join(label.lower().replace("_", " ").replace("-", " ").split())
        if plain not in self.positives | self._negative:
            raise InputError(
                f"{where}: unclear whether {label!r} is positive; name the positive class, or use the labels "
                f"{self.names[1]} and {self.names[0]}, or 1 and 0"
            )
        return plain in self.positives


def _from_table(folder: Path, table: Path, classes: Classes) -> list[Sample]:
    """The samples of a table with the columns `image`, `file` or `sop_instance_uid`, and `label`."""
    regions = folder / "regions.json"
    marks = json.loads(regions.read_text(encoding="utf-8")) if regions.is_file() else {}
    by_uid: dict[str, Path] = {}
    samples = []
    with table.open(newline="", encoding="utf-8-sig") as file:
        for row in (reader := csv.DictReader(file)):
            where = f"{table}:{reader.line_num}"
            reference = next((name for name in REFERENCES if row.get(name)), None)
            label = row.get("label") or row.get(classes.names[1])
            if reference is None or not label:
                raise InputError(f"{where}: no value for {'label' if reference else ' or '.join(REFERENCES)}")
            if row.get("split") and row["split"] not in SPLITS:
                raise InputError(f"{where}: split is {row['split']!r}; it must be one of {', '.join(SPLITS)}")
            if reference == "sop_instance_uid":
                by_uid = by_uid or {
                    str(_header(p).get("SOPInstanceUID")): p for p in _images(folder) if is_dicom(p)
                }
                path = by_uid.get(row[reference], folder / row[reference])
            else:
                path = folder / ("images" if reference == "image" else "") / row[reference]
            if not path.is_file():
                raise InputError(f"{where}: {reference} {row[reference]} is not in {folder}")
            if not row.get("group") and not is_dicom(path):
                raise InputError(f"{where}: no value for group; only DICOM files name their patient")
            sample = _sample(path, folder, row.get("split") or "", classes.is_positive(label, where))
            stated = {key: value for key, value in row.items() if key and key not in classes.known_columns}
            samples.append(
                replace(
                    sample,
                    group=row.get("group") or sample.group,
                    marks=tuple(_mark(mark, regions) for mark in marks.get(row[reference], ())),
                    traits={**sample.traits, **stated},
                )
            )
    return samples


def _from_folders(folder: Path, classes: Classes) -> list[Sample]:
    """The samples of DIR/SPLIT/CLASS/... or DIR/CLASS/..."""
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    samples = []
    for split in splits or [""]:
        for of_class in sorted(path for path in (folder / split).iterdir() if path.is_dir()):
            is_positive = classes.is_positive(of_class.name, str(of_class))
            samples += [_sample(path, folder, split, is_positive) for path in _images(of_class)]
    if not samples:
        raise InputError(
            f"{folder}: not a data set; it must hold manifest.csv with images/, labels.csv with DICOM files, "
            "or a folder of images for each class, with or without train/, val/ and test/ above them"
        )
    return samples


def _images(folder: Path) -> list[Path]:
    """The files under a folder that have the suffix of an image or are DICOM."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.suffix.lower() in SUFFIXES or is_dicom(path)]


def _sample(path: Path, folder: Path, split: str, positive: bool) -> Sample:
    """A sample; of a DICOM file with a digest of the patient as its group, and with traits."""
    if not is_dicom(path):
        return Sample(path, split, positive, group=str(path.relative_to(folder)))
    header = _header(path)
    patient = str(header.get("PatientID") or path.relative_to(folder))
    digest = hashlib.sha256(patient.encode()).hexdigest()[:16]
    traits = {keyword: str(header[keyword].value) for keyword in TRAITS if keyword in header}
    return Sample(path, split, positive, group=digest, traits=traits)


def _header(path: Path) -> Dataset:
    """The few elements of a DICOM header that are used here. Raises InputError."""
    with (
        parsing(lambda e: InputError(f"{path}: its DICOM header cannot be read ({type(e).__name__})")),
        warnings.catch_warnings(),
    ):
        # Warnings of pydicom quote values, which may identify the patient.
        warnings.simplefilter("ignore")
        wanted = ["SOPInstanceUID", "PatientID", *TRAITS]
        header = dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        header.walk(lambda *_: None)  # values are parsed, and may fail, at the first access
        return header


def _mark(mark: Mapping[str, Sequence[float]], regions: Path) -> Mark:
    """One entry of `regions.json`: bbox [left, top, width, height] and, where drawn, polygon [x, y, ...]."""
    try:
        left, top, width, height = (float(value) for value in mark["bbox"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{regions}: {mark} must have bbox: [left, top, width, height]") from None
    right, bottom = left + width, top + height
    flat = mark.get("polygon") or (left, top, right, top, right, bottom, left, bottom)
    return Mark(
        box=(left, top, width, height),
        polygon=tuple((float(x), float(y)) for x, y in zip(flat[::2], flat[1::2], strict=True)),
    )


def display(path: Path) -> NDArray[np.float32]:
    """The display image of a DICOM, JPEG or PNG file: (rows, columns), 0..1. Raises InputError."""
    if path.is_file() and is_dicom(path):
        try:
            return pixels.prepare(decode.read(path)).display
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if stored is None:
        raise InputError(f"{path}: not an image that can be read")
    header = Dataset()
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    decoded = decode.Decoded(header=header, pixels=stored.astype(np.uint8), content_key="")
    return pixels.prepare(decoded).display
