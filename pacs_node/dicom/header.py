"""Headers of synthetic objects: patient, study and image modules."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

Side = Literal["L", "R"]
Kind = Literal["DX", "CR"]
Photometric = Literal["MONOCHROME1", "MONOCHROME2"]

_NAMESPACE = uuid.UUID("5f2c9c3e-41c1-4b0e-9d5c-2a0f9a3f6b11")
_SOP_CLASSES = {"DX": DigitalXRayImageStorageForPresentation, "CR": ComputedRadiographyImageStorage}


@dataclass(frozen=True, slots=True)
class StudyHeader:
    """Patient and study attributes shared by the images of a study; empty means unknown."""

    study_instance_uid: str
    patient_id: str
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_time: str = ""
    study_id: str = ""
    accession_number: str = ""
    study_description: str = ""
    procedure: Code | None = None


def derive_uid(*parts: object) -> UID:
    """A deterministic UID of these parts (PS3.5 B.2, UUID version 5)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(str(part) for part in parts)).int}")


def stamp(dataset: Dataset, study: StudyHeader) -> None:
    """Make `dataset` an image of `study`, in place: patient and study modules; the other UIDs stay."""
    dataset.PatientID = study.patient_id
    dataset.PatientName = study.patient_name
    dataset.PatientBirthDate = study.patient_birth_date
    dataset.PatientSex = study.patient_sex
    dataset.StudyInstanceUID = study.study_instance_uid
    dataset.StudyDate = study.study_date
    dataset.StudyTime = study.study_time
    dataset.StudyID = study.study_id
    dataset.AccessionNumber = study.accession_number
    dataset.ReferringPhysicianName = ""
    if study.study_description:
        dataset.StudyDescription = study.study_description
    if study.procedure is not None:
        dataset.ProcedureCodeSequence = [coded(study.procedure)]


def coded(code: Code) -> Dataset:
    """A code as the item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def image_object(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    study: StudyHeader,
    sop_instance_uid: UID,
    *,
    kind: Kind,
    photometric: Photometric,
    bits_stored: int,
    window: tuple[float, float],
    series_number: int = 1,
) -> FileDataset:
    """An X-ray image of `study` with all attributes that its IOD requires, whatever the body part.

    `pixels` has shape (rows, columns); `window` is (centre, width) in stored pixel values. DX is "for
    presentation" (PS3.3 A.26), CR has no intent (PS3.3 A.2). Uncompressed, Explicit VR Little Endian.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _SOP_CLASSES[kind]
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta, is_implicit_VR=False)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = _SOP_CLASSES[kind]
    dataset.SOPInstanceUID = sop_instance_uid
    stamp(dataset, study)
    dataset.Modality = kind
    dataset.SeriesInstanceUID = derive_uid(study.study_instance_uid, kind, series_number)
    dataset.SeriesNumber = series_number
    dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = study.study_date
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = study.study_time
    dataset.Manufacturer = "pacs-node demo"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = bits_stored
    dataset.HighBit = bits_stored - 1
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = window
    dataset.LossyImageCompression = "00"
    if kind == "DX":
        inverse = photometric == "MONOCHROME1"
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
        dataset.PixelIntensityRelationship = "LOG"
        dataset.PixelIntensityRelationshipSign = 1 if inverse else -1
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
        dataset.DetectorType = ""
        dataset.PositionerType = ""
        dataset.AcquisitionContextSequence = []
        dataset.AnatomicRegionSequence = []
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    return dataset
