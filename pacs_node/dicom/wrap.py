"""JPEG and PNG files as DICOM objects, for pictures of radiographs."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.dataset import FileDataset

from pacs_node.dicom.header import StudyHeader, derive_uid, image_object
from pacs_node.errors import InputError

PICTURES = frozenset({".jpg", ".jpeg", ".png"})
"""Suffixes of the files that `wrap` reads."""

_MAXIMUM_PIXELS = 64_000_000
_COMPRESSION_JPEG = "ISO_10918_1"


def wrap(
    path: Path,
    *,
    study: StudyHeader | None = None,
    instance_number: int = 1,
) -> FileDataset:
    """A JPEG or PNG file as a DX-for-presentation object: 8 bits, MONOCHROME2, uncompressed.

    Colour becomes luminance, 16 bits become 8, and EXIF's orientation is applied. The UIDs and the patient
    ID are derived from the file's content. ImageLaterality,
    PatientOrientation and ImagerPixelSpacing, which the DX IOD requires (PS3.3 A.26), are unknown and left
    empty. Raises InputError for a file that is no JPEG or PNG, or over 64 megapixels.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    pixels, compressed = _read(path, content)
    digest = hashlib.sha256(content).hexdigest()
    study = study or StudyHeader(
        study_instance_uid=derive_uid("file", digest), patient_id=f"FILE-{digest[:12].upper()}"
    )
    image = image_object(
        pixels,
        study,
        derive_uid("file", digest, study.study_instance_uid, instance_number),
        kind="DX",
        photometric="MONOCHROME2",
        bits_stored=8,
        window=(128, 256),
    )
    image.SeriesDescription = "Wrapped from an image file"
    image.ImageComments = "Made by pacs-node from a JPEG or PNG file. Not an original DICOM image."
    image.InstanceNumber = instance_number
    # Not checked: letters and names may be part of the picture.
    image.BurnedInAnnotation = "YES"
    image.PatientOrientation = None
    image.Laterality = ""
    if compressed:
        image.LossyImageCompression = "01"
        image.LossyImageCompressionMethod = _COMPRESSION_JPEG
        image.LossyImageCompressionRatio = round(max(pixels.size / len(content), 1.0), 2)
    return image


def _read(path: Path, content: bytes) -> tuple[NDArray[np.uint8], bool]:
    """The upright luminance of a picture, uint8 of shape (rows, columns), and whether it is a JPEG."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if width * height > _MAXIMUM_PIXELS:
                raise InputError(f"{path}: {width} x {height} are too many; 64 megapixels are the limit")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):
                pixels = (np.asarray(upright, dtype=np.uint32) >> 8).clip(0, 255).astype(np.uint8)
            else:
                pixels = np.asarray(upright.convert("L"), dtype=np.uint8)
            return pixels, picture.format == "JPEG"
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise InputError(f"{path}: neither a JPEG nor a PNG file of at most 64 megapixels") from None
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path}: the picture is damaged: {error}") from None
