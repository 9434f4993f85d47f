"""Synthetic radiographs of a wrist, as pixels and as DICOM objects: no patient, seeded."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.sr.coding import Code

from pacs_node.demo.wrist import FIELD_MM, Image, View, attenuation
from pacs_node.dicom.header import Kind, Photometric, Side, StudyHeader, coded, derive_uid, image_object

MAXIMUM = 4095
"""The largest pixel value: 12 bits stored."""

_VIEWS = {"PA": Code("272479007", "SCT", "postero-anterior"), "LL": Code("399067008", "SCT", "lateral")}


def radiograph(
    seed: int,
    fractured: bool,
    rows: int = 2560,
    columns: int = 2048,
    *,
    view: View = "PA",
    laterality: Side = "R",
) -> NDArray[np.uint16]:
    """Draw one radiograph of a wrist, bright bones on a dark ground.

    Returns uint16 of shape (rows, columns), 0..4095. The same arguments give the same pixels; a seed is one
    wrist, the same in both views. `fractured` breaks the distal radius, now and then the ulna with it.
    Raises ValueError for fewer than 64 rows or columns.
    """
    if min(rows, columns) < 64:
        raise ValueError(f"a radiograph needs at least 64 x 64 pixels, not {rows} x {columns}")
    anatomy = np.random.default_rng([seed, 1])
    grain = np.random.default_rng([seed, 2, view == "LL"])
    pitch = FIELD_MM / rows
    y = (np.arange(rows, dtype=np.float32) + 0.5) * pitch
    x = (np.arange(columns, dtype=np.float32) + 0.5) * pitch - columns * pitch / 2
    size = float(anatomy.uniform(0.92, 1.06))
    texture = _trabeculae(grain, rows, columns, pitch)
    image = _expose(attenuation(anatomy, x / size, y, texture, view, fractured) * size, grain, pitch)
    if laterality == "L":
        image = np.ascontiguousarray(image[:, ::-1])
    _collimate(image, anatomy, pitch)
    _mark(image, laterality, anatomy, pitch)
    return image.astype(np.uint16)


def phantom_study(seed: int, laterality: Side = "R") -> StudyHeader:
    """The study of the phantom patient with this seed: an adult nobody is."""
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


def dataset(
    seed: int,
    *,
    fractured: bool = False,
    rows: int = 2560,
    columns: int = 2048,
    view: View = "PA",
    laterality: Side = "R",
    kind: Kind = "DX",
    photometric: Photometric = "MONOCHROME2",
    study: StudyHeader | None = None,
) -> FileDataset:
    """A phantom as a DICOM object: DX for presentation or CR, 12 bits in 16, uncompressed, with a window.

    `study` is the study that it belongs to (default: `phantom_study(seed, laterality)`). The same arguments
    give the same UIDs and bytes. Raises ValueError as `radiograph` does.
    """
    pixels = radiograph(seed, fractured, rows, columns, view=view, laterality=laterality)
    low, high = _window(pixels)
    if photometric == "MONOCHROME1":
        pixels = (MAXIMUM - pixels).astype(np.uint16)
        low, high = MAXIMUM - high, MAXIMUM - low
    study = study or phantom_study(seed, laterality)
    uid = derive_uid(
        study.study_instance_uid, seed, fractured, rows, columns, view, laterality, kind, photometric
    )
    image = image_object(
        pixels,
        study,
        uid,
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
    image.ImagerPixelSpacing = [round(FIELD_MM / rows, 6)] * 2
    image.BurnedInAnnotation = "NO"
    image.KVP = 55
    if kind == "DX":
        image.ImageLaterality = laterality
        image.AnatomicRegionSequence = [coded(Code("74670003", "SCT", "Wrist joint"))]
        image.ViewCodeSequence = [coded(_VIEWS[view])]
    else:
        image.Laterality = laterality
    return image


def two_views(
    seed: int,
    *,
    fractured: bool = False,
    rows: int = 2560,
    columns: int = 2048,
    laterality: Side = "R",
    kind: Kind = "DX",
    photometric: Photometric = "MONOCHROME2",
) -> list[FileDataset]:
    """A whole study, the PA and the lateral view of one wrist; see `dataset`."""
    views: tuple[View, View] = ("PA", "LL")
    return [
        dataset(
            seed,
            fractured=fractured,
            rows=rows,
            columns=columns,
            view=view,
            laterality=laterality,
            kind=kind,
            photometric=photometric,
        )
        for view in views
    ]


def _window(pixels: NDArray[np.uint16]) -> tuple[float, float]:
    """The grey values between which a reader would look: from air to the densest bone."""
    coarse = pixels[::8, ::8]
    low, high = np.percentile(coarse[coarse > 100], (2, 99.3))
    return float(round(low * 0.9)), float(round(high * 1.06))


def _trabeculae(rng: np.random.Generator, rows: int, columns: int, pitch: float) -> Image:
    """Fine streaks along the bone's axis, standard deviation about 0.3, of shape (rows, columns)."""
    # Drawn on a grid of 0.25 mm whatever the detector's, so that the structure does not depend on it.
    shape = (max(int(rows * pitch / 0.25), 8), max(int(columns * pitch / 0.25), 8))
    noise = rng.standard_normal(shape, dtype=np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), sigmaX=1.1, sigmaY=3.0)
    coarse = cv2.GaussianBlur(noise, (0, 0), sigmaX=6, sigmaY=9)
    streaks = fine - coarse
    streaks = streaks * np.float32(0.3 / float(streaks.std()))
    return np.asarray(cv2.resize(streaks, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def _expose(attenuation: Image, rng: np.random.Generator, pitch: float) -> Image:
    """Blur of focus and detector, quantum noise, and the grey scale of a processed image, 0..4095."""
    sharp = cv2.GaussianBlur(attenuation, (0, 0), sigmaX=max(0.12 / pitch, 0.3))
    # Structures are lifted above the slow trend, as every detector's processing does.
    small = cv2.resize(sharp, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    trend = cv2.GaussianBlur(small, (0, 0), sigmaX=max(9.0 / pitch / 8, 1))
    sharp = sharp + np.float32(0.35) * (sharp - cv2.resize(trend, (sharp.shape[1], sharp.shape[0])))
    noise = rng.standard_normal(sharp.shape, dtype=np.float32)
    # Fewer quanta behind more bone: the noise of the logarithm grows with the attenuation.
    sharp = sharp + noise * np.float32(0.011) * np.exp(0.45 * sharp)
    grey = 330 + 3150 * (1 - np.exp(-1.15 * np.maximum(sharp, -0.05)))
    result: Image = np.clip(grey, 0, MAXIMUM).astype(np.float32)
    return result


def _collimate(image: Image, rng: np.random.Generator, pitch: float) -> None:
    """Darken what the collimator's leaves kept from the detector: a slightly turned frame, in place."""
    rows, columns = image.shape
    margins = rng.uniform(3, 11, 4) / pitch
    turn = float(rng.uniform(-1.2, 1.2))
    frame = np.zeros((rows, columns), np.uint8)
    box = (
        ((margins[0] + columns - margins[1]) / 2, (margins[2] + rows - margins[3]) / 2),
        (columns - margins[0] - margins[1], rows - margins[2] - margins[3]),
        turn,
    )
    cv2.fillConvexPoly(frame, np.round(cv2.boxPoints(box)).astype(np.int32), 255)
    soft = cv2.GaussianBlur(frame, (0, 0), sigmaX=max(0.35 / pitch, 0.5))
    image *= soft.astype(np.float32) / 255
    image += 40


def _mark(image: Image, laterality: Side, rng: np.random.Generator, pitch: float) -> None:
    """The side's letter in lead, near an upper corner on the little finger's side, in place."""
    rows, columns = image.shape
    tall = 11.0 / pitch
    scale, thick = tall / 22, max(round(2.2 / pitch), 1)
    across = 0.13 if laterality == "L" else 0.83
    place = (round(columns * (across + float(rng.uniform(-0.02, 0.02)))), round(rows * 0.17))
    mask = np.zeros((rows, columns), np.uint8)
    cv2.putText(mask, laterality, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    np.maximum(image, mask.astype(np.float32) * (3850 / 255), out=image)
