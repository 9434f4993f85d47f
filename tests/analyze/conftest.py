"""Small DICOM images, made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

MakeImage = Callable[..., FileDataset]


@pytest.fixture
def make_image() -> MakeImage:
    """Build a CR image of these pixels; keywords are attributes, None takes one away."""

    def make(pixels: NDArray[np.integer], **attributes: object) -> FileDataset:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.PatientName, dataset.PatientID, dataset.Modality = "Test^Image", "1", "CR"
        bits = pixels.dtype.itemsize * 8
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
        for keyword, value in attributes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        if "BitsStored" in attributes and "HighBit" not in attributes:
            dataset.HighBit = dataset.BitsStored - 1
        return dataset

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Dataset], Path]:
    """Write a data set and give its path."""

    def write(dataset: Dataset) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write
