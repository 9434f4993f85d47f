"""The images of a demo: phantoms, or people's own files."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from pacs_node.demo.phantom import dataset, two_views
from pacs_node.demo.wrist import View
from pacs_node.dicom.header import StudyHeader
from pacs_node.dicom.wrap import PICTURES, wrap
from pacs_node.errors import AdmissionError, InputError
from pacs_node.receive.admission import read_header


def phantoms(folder: Path) -> dict[str, list[Path]]:
    """Two studies of two views: a broken right wrist, and a whole left one of the inverted kind.

    Written under `folder`/images; returns their paths by Study Instance UID.
    """
    # Of 30 broken wrists the shipped model marks five; this is one of them, so that the demo shows a region.
    studies = (
        two_views(23, fractured=True, rows=2048, columns=1638),
        two_views(3, rows=2048, columns=1638, laterality="L", kind="CR", photometric="MONOCHROME1"),
    )
    return _saved((image for study in studies for image in study), folder)


def test_study() -> list[FileDataset]:
    """Two phantom views of now, in a study of their own whose every name says that it is a test."""
    now = datetime.now().astimezone()
    study = StudyHeader(
        study_instance_uid=f"2.25.{uuid.uuid4().int}",
        patient_id="PACSNODE-TEST",
        patient_name="PACSNODE^TEST",
        patient_birth_date="19800101",
        patient_sex="O",
        study_date=f"{now:%Y%m%d}",
        study_time=f"{now:%H%M%S}",
        study_id="PACSNODE-TEST",
        study_description="TEST of pacs-node, a phantom, may be deleted",
    )
    views: tuple[View, View] = ("PA", "LL")
    return [dataset(23, fractured=True, rows=1024, columns=819, view=view, study=study) for view in views]


def from_files(inputs: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """DICOM files as they are, JPEG and PNG files wrapped; folders are searched. As `phantoms` gives them.

    Raises InputError naming a file that is none of these, and where there is no file at all.
    """
    found = [file for path in inputs for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return _saved((_read(file) for file in found if file.is_file()), folder)


def _read(path: Path) -> Dataset:
    if path.suffix.lower() in PICTURES:
        return wrap(path)
    try:
        # The node's own check, so that what it would refuse is refused here, by name.
        read_header(path)
        return dcmread(path)
    except AdmissionError as error:
        raise InputError(f"{path}: neither a JPEG or PNG file nor usable DICOM: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _saved(images: Iterator[Dataset], folder: Path) -> dict[str, list[Path]]:
    """Write the images under `folder`/images, each once; their paths by Study Instance UID."""
    (folder / "images").mkdir(parents=True)
    studies: dict[str, dict[str, Path]] = {}
    for number, image in enumerate(images, start=1):
        study = studies.setdefault(str(image.StudyInstanceUID), {})
        path = study.setdefault(str(image.SOPInstanceUID), folder / "images" / f"{number:04d}.dcm")
        image.save_as(path, enforce_file_format=True)
    if not studies:
        raise InputError("no image was given")
    return {uid: list(paths.values()) for uid, paths in studies.items()}
