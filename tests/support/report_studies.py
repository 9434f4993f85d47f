"""Report requests made by hand: headers, findings and requests that a test can alter."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from pacs_node.heatmap import HeatMap
from pacs_node.records import (
    Finding,
    ImageResult,
    Instance,
    InstanceState,
    ModelIdentity,
    NodeIdentity,
    Predecessor,
    Region,
    ReportRequest,
)

STUDY = "2.25.100000000000000000000000000000000001"
MODEL = ModelIdentity(
    id="fracture-1",
    name="pacs-node fracture",
    version="1.0.0",
    sha256="ab12cd34" * 8,
    threshold=0.5,
    finding=Code("125605004", "SCT", "Fracture of bone"),
    positive_phrase="Fracture suspected",
    negative_phrase="no fracture suspected",
    negative_caveat="Does not exclude a fracture.",
)
NODE = NodeIdentity(
    namespace="6f1c1f7e-8f0e-4a4c-9b1e-0d7f0c5b2a11",
    device_uid="2.25.76439011696637158686718707576342369720",
    ae_title="PACSNODE",
)
PREDECESSOR = Predecessor("2.25.9001", "2.25.9002", "1.2.840.10008.5.1.4.1.1.88.33", 1_790_000_000.0)


def header(number: int = 1, **attributes: Any) -> Dataset:
    """The header of a DX wrist of 600 x 400 pixels as read from a file; None removes an attribute."""
    source = Dataset()
    source.SpecificCharacterSet = "ISO_IR 100"
    source.SOPClassUID = DigitalXRayImageStorageForPresentation
    source.SOPInstanceUID = f"2.25.20000000000000000000000000000000{number}"
    source.StudyInstanceUID = STUDY
    source.SeriesInstanceUID = "2.25.300000000000000000000000000000001"
    source.Modality, source.Manufacturer = "DX", "ACME"
    source.PatientName, source.PatientID = "Müller^Eva", "P1"
    source.PatientBirthDate, source.PatientSex = "19700101", "F"
    source.StudyDate, source.StudyTime, source.StudyID, source.AccessionNumber = (
        "20260102",
        "101500",
        "1",
        "A1",
    )
    source.StudyDescription, source.ReferringPhysicianName = "Handgelenk übersicht", "Weiß^Ada"
    source.SeriesNumber, source.InstanceNumber = 1, number
    source.BodyPartExamined, source.ImageLaterality = "WRIST", "L"
    source.ViewPosition = "PA" if number == 1 else "LL"
    source.PatientOrientation = ["L", "F"]
    source.Rows, source.Columns, source.ImagerPixelSpacing = 600, 400, [0.15, 0.15]
    for keyword, value in attributes.items():
        if value is None:
            source.pop(keyword, None)
        else:
            setattr(source, keyword, value)
    return reread(source)


def reread(source: Dataset) -> Dataset:
    """Write and read a data set, so that its elements are as raw as those of received files."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    source.file_meta = meta
    dcmwrite(buffer, source, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def finding(probability: float, source: Dataset, key: str = "") -> Finding:
    """A finding with this probability; if positive, with one region over the hottest of 7 x 7 cells."""
    values = np.zeros((7, 7), np.float32)
    values[3, 2], values[3, 3], values[4, 2], values[2, 2] = 1, 0.7, 0.6, 0.4
    step = (source.Columns / 7, source.Rows / 7)
    left, top, right, bottom = 2 * step[0], 3 * step[1], 3 * step[0], 4 * step[1]
    region = Region(((left, top), (right, top), (right, bottom), (left, bottom)), 1.0)
    positive = probability >= MODEL.threshold
    return Finding(
        content_key=key or f"key of {source.SOPInstanceUID}",
        probability=probability,
        positive=positive,
        heat_map=HeatMap(values * probability, (step[0] / 2, step[1] / 2), step),
        regions=(region,) if positive else (),
    )


def image(source: Dataset, probability: float | None, number: int = 1) -> ImageResult:
    """An image with its finding; with the probability None, one that could not be decoded."""
    instance = Instance(
        id=number,
        study_id=1,
        study_instance_uid=str(source.StudyInstanceUID),
        series_instance_uid=str(source.SeriesInstanceUID),
        sop_instance_uid=str(source.SOPInstanceUID),
        sop_class_uid=str(source.SOPClassUID),
        modality=str(source.Modality),
        patient_id="P1",
        sha256="0" * 64,
        received_at=1_799_999_000.0 + number,
        calling_ae_title="MODALITY",
        called_ae_title="PACSNODE",
        address="127.0.0.1",
        size=1000,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        state=InstanceState.ANALYZED if probability is not None else InstanceState.FAILED,
        reason=None,
        attempts=1,
    )
    if probability is None:
        return ImageResult(instance, source, None, "the pixel data cannot be decoded")
    return ImageResult(instance, source, finding(probability, source))


def skipped(source: Dataset, reason: str, number: int) -> ImageResult:
    """An X-ray that was stored and not analyzed."""
    plain = image(source, None, number)
    return replace(
        plain, instance=replace(plain.instance, state=InstanceState.SKIPPED, reason=reason), failure=reason
    )


def request(*images: ImageResult, **fields: Any) -> ReportRequest:
    """A request for these images, by default a positive and a negative view of one wrist."""
    images = images or (image(header(1), 0.8731, 1), image(header(2), 0.12, 2))
    plain = ReportRequest(
        node=NODE,
        model=MODEL,
        study_instance_uid=str(images[0].source.StudyInstanceUID),
        revision=1,
        created_at=1_800_000_000.0,
        images=images,
        predecessor=None,
    )
    return replace(plain, **fields)


def shapes() -> dict[str, ReportRequest]:
    """A request for every kind of report."""
    return {
        "positive": request(),
        "negative": request(image(header(2), 0.12, 2)),
        "partial, positive": request(image(header(1), 0.8731, 1), image(header(2), None, 2)),
        "partial, negative": request(image(header(1), 0.12, 1), image(header(2), None, 2)),
        "skipped": request(
            image(header(1), 0.12, 1),
            skipped(header(2, ImageType=["DERIVED", "SECONDARY"], PatientID="OLD"), "DERIVED\\SECONDARY", 2),
            skipped(
                header(3, SOPClassUID=SecondaryCaptureImageStorage, Modality="OT", Rows=None),
                "Secondary Capture Image Storage is not accepted",
                3,
            ),
            skipped(header(4, Modality="RG", PatientOrientation=None), "modality RG is not accepted", 4),
            skipped(
                header(5, Modality="", Rows=None, Columns=None, PatientOrientation=None), "no\tmodality", 5
            ),
        ),
        "failed": request(image(header(1), None, 1), image(header(2), None, 2)),
        "amended": request(revision=2, predecessor=PREDECESSOR),
        "images not received": request(image(header(2), 0.12, 2), missing_images=2),
    }


def display(source: Dataset) -> NDArray[np.float32]:
    """Displayed pixels: a ramp from left to right."""
    ramp = np.linspace(0, 1, source.Columns, dtype=np.float32)
    return np.repeat(ramp[None], source.Rows, axis=0)
