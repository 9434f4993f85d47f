"""The images of a demo: phantoms, or people's own files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from pacs_node.demo.phantom import two_views
from pacs_node.demo.wrap import wrap
from pacs_node.errors import InputError


def phantoms(folder: Path) -> dict[str, list[Path]]:
    """Two studies of two views: a broken right wrist, and a whole left one of the inverted kind.

    Written under `folder`/images; returns their paths by Study Instance UID.
    """
    studies = (
        two_views(2, fractured=True, rows=2048, columns=1638),
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
    try:
        return dcmread(path)
    except InvalidDicomError:
        return wrap(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _saved(images: Iterator[Dataset], folder: Path) -> dict[str, list[Path]]:
    """Write the images under `folder`/images; their paths by Study Instance UID."""
    (folder / "images").mkdir()
    studies: dict[str, list[Path]] = {}
    for number, image in enumerate(images, start=1):
        path = folder / "images" / f"{number:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        studies.setdefault(str(image.StudyInstanceUID), []).append(path)
    if not studies:
        raise InputError("no image was given")
    return studies
