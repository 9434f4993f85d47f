"""The images of a demo: phantoms, or people's own files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs_node.demo.phantom import two_views
from pacs_node.demo.wrap import PICTURES, wrap
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
