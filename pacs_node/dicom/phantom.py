"""Phantoms: X-rays of a wrist drawn by a program, as DICOM objects. Their pixels lie in `phantoms/`."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from pacs_node.dicom.header import Kind, Photometric, Side, StudyHeader, coded, derive_uid, image_object

View = Literal["PA", "LL"]

FIELD_MM = 200.0
"""Height of the detector."""
MAXIMUM = 4095
"""The largest pixel value: 12 bits stored."""
VIEWS: dict[View, Code] = {
    "PA": Code("272479007", "SCT", "postero-anterior"),
    "LL": Code("399067008", "SCT", "lateral"),
}
FOLDER = Path(__file__).with_name("phantoms")


def fractured_right(study: StudyHeader | None = None) -> list[FileDataset]:
    """The PA and lateral view of a fractured right wrist, DX; the shipped model marks its lateral view."""
    return _views("fractured-right", study or phantom_study(23), "R", "DX", "MONOCHROME2")


def sound_left() -> list[FileDataset]:
    """The PA and lateral view of a sound left wrist, CR, MONOCHROME1."""
    return _views("sound-left", phantom_study(3, "L"), "L", "CR", "MONOCHROME1")


def disposable_study() -> list[FileDataset]:
    """The fractured wrist as a new study, dated now, of a patient and with a description that say TEST."""
    now = datetime.now().astimezone()
    return fractured_right(
        StudyHeader(
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
    )


def phantom_study(seed: int, laterality: Side = "R") -> StudyHeader:
    """The study of the phantom patient with this seed, an adult who does not exist."""
    side = "right" if laterality == "R" else "left"
    return StudyHeader(
        study_instance_uid=derive_uid("phantom", seed, laterality),
        patient_id=f"PHANTOM-{seed:06d}",
        patient_name=f"PHANTOM^WRIST {seed:06d}",
        patient_birth_date="19800101",
        patient_sex="O",
        study_date="20260105",
        study_time="093000",
        study_id=f"PH{seed:06d}",
        accession_number=f"PHA{seed:06d}",
        study_description=f"X-ray {side} wrist, phantom",
        procedure=Code("168537006", "SCT", "Plain radiography"),
    )


def wrist_object(
    pixels: NDArray[np.uint16],
    study: StudyHeader,
    sop_instance_uid: UID,
    *,
    view: View,
    laterality: Side,
    kind: Kind,
    photometric: Photometric,
) -> FileDataset:
    """A view of a wrist (12 bits, bright bones) as DX for presentation or CR, uncompressed, with a window."""
    coarse = pixels[::8, ::8]
    # From air to the densest bone.
    low, high = np.percentile(coarse[coarse > 100], (2, 99.3))
    low, high = float(round(low * 0.9)), float(round(high * 1.06))
    if photometric == "MONOCHROME1":
        pixels = (MAXIMUM - pixels).astype(np.uint16)
        low, high = MAXIMUM - high, MAXIMUM - low
    image = image_object(
        pixels,
        study,
        sop_instance_uid,
        kind=kind,
        photometric=photometric,
        bits_stored=12,
        window=((low + high) / 2, high - low),
        # A series of its own: CR's ViewPosition belongs to the series (PS3.3 C.8.1.1).
        series_number=1 if view == "PA" else 2,
    )
    image.InstanceNumber = 1
    image.SeriesDescription = "Wrist, phantom"
    image.BodyPartExamined = "WRIST"
    image.ViewPosition = view
    # Fingers up: the columns run towards the head of the anatomical position. Palm down, the thumb of a
    # right hand is on the left, so that rows run towards the patient's left (PS3.3 C.7.6.1.1.1).
    across = {"PA": {"R": "L", "L": "R"}, "LL": {"R": "P", "L": "A"}}[view][laterality]
    image.PatientOrientation = [across, "H"]
    image.ImagerPixelSpacing = [round(FIELD_MM / pixels.shape[0], 6)] * 2
    image.BurnedInAnnotation = "NO"
    image.KVP = 55
    if kind == "DX":
        image.ImageLaterality = laterality
        image.AnatomicRegionSequence = [coded(Code("74670003", "SCT", "Wrist joint"))]
        image.ViewCodeSequence = [coded(VIEWS[view])]
    else:
        image.Laterality = laterality
    return image


def _views(
    name: str, study: StudyHeader, laterality: Side, kind: Kind, photometric: Photometric
) -> list[FileDataset]:
    images = []
    for view in VIEWS:
        with Image.open(FOLDER / f"{name}-{view}.jp2") as file:
            pixels = np.asarray(file, np.uint16).clip(0, MAXIMUM)
        uid = derive_uid(study.study_instance_uid, name, view)
        images.append(
            wrist_object(
                pixels, study, uid, view=view, laterality=laterality, kind=kind, photometric=photometric
            )
        )
    return images
