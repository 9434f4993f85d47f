"""Draws the phantoms of the tests: seeded radiographs of a wrist in any size, as pixels and DICOM objects.

The views in `pacs_node/dicom/phantoms` were drawn by this. Bones are ellipsoids and tapering tubes with a
dense cortex around trabecular bone, the soft parts flattened cylinders with a layer of fat, seen along
parallel rays. Lengths are millimetres; x runs along a row and y along a column, with the fingers at the top
and, in the PA view of this right hand, the thumb on the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from pacs_node.dicom.header import Kind, Photometric, Side, StudyHeader, derive_uid
from pacs_node.dicom.phantom import FIELD_MM, MAXIMUM, VIEWS, View, phantom_study, wrist_object

__all__ = ["FIELD_MM", "MAXIMUM", "View", "dataset", "phantom_study", "radiograph", "two_views"]

Image = NDArray[np.float32]

_BONE, _MUSCLE, _FAT = 0.042, 0.0125, 0.0085
"""Attenuation per mm; bone as solid cortex."""


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
    study = study or phantom_study(seed, laterality)
    uid = derive_uid(
        study.study_instance_uid, seed, fractured, rows, columns, view, laterality, kind, photometric
    )
    return wrist_object(
        pixels, study, uid, view=view, laterality=laterality, kind=kind, photometric=photometric
    )


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
        for view in VIEWS
    ]


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


def attenuation(
    rng: np.random.Generator, x: Image, y: Image, texture: Image, view: View, fractured: bool
) -> Image:
    """Attenuation of a right wrist at columns `x` and rows `y` (mm): float32 of shape (y.size, x.size).

    `texture` is the trabecular pattern, of the same shape, mean 0. The same generator state gives the same
    wrist in both views, whole or broken.
    """
    canvas = _Canvas(x, y, texture)
    _draw_bones(canvas, rng, view, fractured)
    result: Image = (canvas.bone * _BONE + _soft_parts(canvas, rng, view)).astype(np.float32)
    return result


@dataclass(frozen=True, slots=True)
class _Tube:
    """A long bone: half widths along its axis, the axis, and how deep it is for its width."""

    top: float
    bottom: float
    stations: tuple[tuple[float, float, float], ...]
    """(y, half width, thickness of the cortex)."""
    x: float
    slope: float = 0.0
    bow: float = 0.0
    cap: float = 5.0
    """Height of its rounded ends."""


@dataclass(frozen=True, slots=True)
class _Fracture:
    """A break across a tube: where, how steep, how ragged, and how the far fragment moved."""

    y: float
    tilt: float
    ragged: NDArray[np.float64]
    gap: float
    shift: float
    angle: float


class _Canvas:
    """The bone's attenuation so far, in mm of cortex, and the grid that it is drawn on."""

    def __init__(self, x: Image, y: Image, texture: Image) -> None:
        self.x, self.y, self.texture = x, y, texture
        self.bone: Image = np.zeros((y.size, x.size), np.float32)

    def window(self, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
        """The part of the grid that a shape needs, as (rows, columns)."""
        columns = np.searchsorted(self.x, (left, right))
        rows = np.searchsorted(self.y, (top, bottom))
        return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))

    def tube(self, tube: _Tube, fracture: _Fracture | None = None) -> None:
        """Add a long bone, in two fragments where it is broken."""
        if fracture is None:
            self._fragment(tube, None, 0)
        else:
            self._fragment(tube, fracture, 1)
            self._fragment(tube, fracture, -1)

    def _fragment(self, tube: _Tube, fracture: _Fracture | None, side: int) -> None:
        wide = max(station[1] for station in tube.stations) + abs(tube.bow) + 14
        ends = [tube.x + tube.slope * (end - tube.top) for end in (tube.top, tube.bottom)]
        rows, columns = self.window(min(ends) - wide, max(ends) + wide, tube.top - 8, tube.bottom + 8)
        x, y = self.x[columns][None, :], self.y[rows][:, None]
        if fracture is not None and side < 0:
            turn = np.float32(np.tan(np.radians(fracture.angle)))
            x = x - fracture.shift + turn * (y - fracture.y)
        along = np.clip((y - tube.top) / (tube.bottom - tube.top), 0, 1)
        axis = tube.x + tube.slope * (y - tube.top) + tube.bow * np.sin(np.pi * along)
        at = np.asarray(tube.stations)
        outer = _smooth_interp(y, at[:, 0], at[:, 1])
        cortex = _smooth_interp(y, at[:, 0], at[:, 2])
        depth = np.minimum((y - tube.top) / tube.cap, (tube.bottom - y) / tube.cap)
        rounding = np.sqrt(np.clip(1 - np.clip(1 - depth, 0, 1) ** 2, 0, 1)) * (depth > 0)
        bone = self._shell(x - axis, outer * rounding, cortex, self.texture[rows, columns])
        if fracture is not None:
            across = np.interp((x - axis)[0], np.linspace(-16, 16, fracture.ragged.size), fracture.ragged)
            line = fracture.y + fracture.tilt * (x - axis) + across.astype(np.float32)[None, :]
            bone *= np.clip(0.5 + (side * (y - line) - fracture.gap / 2) / 0.5, 0, 1)
        self.bone[rows, columns] += bone

    @staticmethod
    def _shell(offset: Image, radius: Image, cortex: Image, texture: Image) -> Image:
        """Path length through a tube with a dense wall: chord of the whole less that of the cavity."""
        across = offset * offset
        inner = np.maximum(radius - cortex, 0)
        whole = np.sqrt(np.maximum(radius * radius - across, 0))
        cavity = np.sqrt(np.maximum(inner * inner - across, 0))
        spongy = np.clip(0.10 + 0.20 * (1 - cortex / 3.2), 0.06, 0.3) * (1 + texture)
        result: Image = (2 * (whole - cavity + spongy * cavity)).astype(np.float32)
        return result

    def pebble(self, x: float, y: float, width: float, height: float, turn: float, depth: float) -> None:
        """Add a carpal bone: an ellipsoid with a thin cortex, half axes in mm, turned by degrees."""
        reach = max(width, height) + 1
        rows, columns = self.window(x - reach, x + reach, y - reach, y + reach)
        dx, dy = self.x[columns][None, :] - x, self.y[rows][:, None] - y
        cos, sin = np.float32(np.cos(np.radians(turn))), np.float32(np.sin(np.radians(turn)))
        u, v = np.abs(cos * dx + sin * dy), np.abs(cos * dy - sin * dx)

        def chord(shrink: float) -> Image:
            squared = (u / (width - shrink)) ** 2.6 + (v / (height - shrink)) ** 2.6
            result: Image = np.sqrt(np.maximum(1 - squared, 0)) * np.float32(2 * (depth - shrink))
            return result

        whole, cavity = chord(0.0), chord(1.0)
        self.bone[rows, columns] += whole - cavity + 0.34 * cavity * (1 + self.texture[rows, columns])


def _draw_bones(canvas: _Canvas, rng: np.random.Generator, view: View, fractured: bool) -> None:
    """The bones of a right wrist: in PA with the radius on the left, in LL one behind the other."""
    wobble = rng.normal(0, 1, 32)
    fracture = _fracture(rng, view)
    ulna_too = bool(rng.uniform() < 0.3)
    bottom = FIELD_MM + 20
    shaft, head = 6.6 + 0.3 * wobble[0], 14.0 + 0.6 * wobble[1]
    squeeze = 1.0 if view == "PA" else 0.72
    joint = 92.0
    radius = _Tube(
        joint,
        bottom,
        (
            (joint, head * squeeze, 0.9),
            (joint + 14, (head - 1.0) * squeeze, 1.0),
            (joint + 30, (shaft + 2.6) * squeeze, 1.6),
            (joint + 52, shaft, 2.6),
            (bottom, shaft - 0.3, 3.1),
        ),
        x=-12.0 if view == "PA" else 1.0,
        slope=0.015,
        bow=-2.5 if view == "PA" else 1.5,
        cap=3.5,
    )
    ulna = _Tube(
        joint + 3,
        bottom,
        (
            (joint + 3, 7.4, 1.0),
            (joint + 12, 7.6, 1.2),
            (joint + 24, 5.4, 2.0),
            (joint + 50, 5.9, 2.5),
            (bottom, 6.6, 2.8),
        ),
        x=14.5 if view == "PA" else -2.0,
        slope=-0.01 if view == "PA" else 0.03,
        bow=1.2,
        cap=4.0,
    )
    canvas.tube(radius, fracture if fractured else None)
    canvas.tube(ulna, fracture if fractured and ulna_too else None)
    _draw_hand(canvas, wobble, view)


def _draw_hand(canvas: _Canvas, wobble: NDArray[np.float64], view: View) -> None:
    """Carpal bones and metacarpals."""
    # x, y, half width, half height, turn, depth of the scaphoid, lunate, triquetrum, pisiform, trapezium,
    # trapezoid, capitate and hamate, each about where it lies in a neutral PA view.
    carpals = (
        (-15.5, 80.0, 5.6, 9.5, 28.0, 6.5),
        (-3.5, 83.5, 6.6, 6.0, 0.0, 7.0),
        (10.5, 80.0, 6.2, 6.6, -20.0, 6.5),
        (14.5, 81.5, 4.2, 4.4, 0.0, 4.5),
        (-22.0, 65.0, 6.4, 6.8, 30.0, 6.5),
        (-12.0, 64.0, 4.6, 5.2, 0.0, 6.0),
        (-3.0, 68.0, 5.9, 9.6, -4.0, 7.0),
        (8.0, 67.5, 6.0, 8.2, -24.0, 6.5),
    )
    spread = 1.0 if view == "PA" else 0.36
    for number, (x, y, width, height, turn, depth) in enumerate(carpals):
        canvas.pebble(
            x * spread + 0.5 * wobble[number + 2],
            y + 1.8 + 0.5 * wobble[number + 10],
            width * (1.1 if view == "PA" else 1.2),
            height * 1.1,
            turn,
            depth * (1.0 if view == "PA" else 0.8),
        )
    # base x, slope, top and base of the metacarpals, index finger first; the thumb's turns less in LL.
    metacarpals = (
        (-15.5, 0.17, -12.0, 59.5),
        (-4.0, 0.03, -14.0, 58.5),
        (5.5, -0.09, -10.0, 59.5),
        (13.5, -0.22, -4.0, 61.0),
    )
    scale = 1.0 if view == "PA" else 0.3
    thumb_x, thumb_slope = _thumb(view)
    beams = [(x * scale, slope * scale, top, base) for x, slope, top, base in metacarpals]
    for x, slope, top, base in [*beams, (thumb_x, thumb_slope, 14.0, 62.0)]:
        canvas.tube(
            _Tube(
                top,
                base,
                (
                    (top, 5.6, 0.8),
                    (top + 9, 5.2, 0.9),
                    (top + 22, 3.9, 1.8),
                    (base - 16, 4.2, 1.9),
                    (base - 4, 6.0, 0.9),
                    (base, 6.2, 0.8),
                ),
                x=x - (base - top) * slope,
                slope=slope,
                cap=3.5,
            )
        )


def _thumb(view: View) -> tuple[float, float]:
    """Where the first metacarpal's base lies, and how its axis leans."""
    return (-30.0, 0.50) if view == "PA" else (-10.0, 0.34)


def _fracture(rng: np.random.Generator, view: View) -> _Fracture:
    """A break some 20 to 38 mm from the joint; dorsal shift and tilt show in the lateral view most."""
    ragged = np.cumsum(rng.normal(0, 0.55, 33))
    ragged -= np.linspace(ragged[0], ragged[-1], 33)
    y, tilt = float(rng.uniform(112, 130)), float(rng.uniform(-0.55, 0.55))
    shift, angle = rng.uniform(1.2, 3.8, 2), rng.uniform(3, 12, 2)
    sign = np.where(rng.uniform(size=2) < 0.5, -1, 1)
    here = 1 if view == "LL" else 0
    return _Fracture(
        y=y,
        tilt=tilt,
        ragged=ragged,
        gap=float(rng.uniform(0.7, 1.8)),
        shift=float(shift[here] * sign[here]),
        angle=float(angle[here] * sign[here]),
    )


def _smooth_interp(y: Image, at: NDArray[np.float64], values: NDArray[np.float64]) -> Image:
    """Interpolation between stations without corners (a smoothstep between neighbours); shape of `y`."""
    index = np.clip(np.searchsorted(at, y) - 1, 0, at.size - 2)
    t = np.clip((y - at[index]) / (at[index + 1] - at[index]), 0, 1)
    t = t * t * (3 - 2 * t)
    result: Image = (values[index] * (1 - t) + values[index + 1] * t).astype(np.float32)
    return result


def _soft_parts(canvas: _Canvas, rng: np.random.Generator, view: View) -> Image:
    """Muscle, tendon and fat: flattened cylinders, wide at the hand and narrow at the wrist."""
    wobble = 1 + 0.05 * rng.normal(0, 1, 4)
    y = canvas.y[:, None]
    at = np.array([-20.0, 20.0, 55.0, 88.0, 125.0, 170.0, 230.0])
    if view == "PA":
        left = np.array([38.0, 42.0, 41.0, 31.0, 28.0, 32.0, 37.0]) * wobble[0]
        right = np.array([31.0, 32.0, 31.0, 29.0, 27.0, 30.0, 35.0]) * wobble[1]
        depth = np.array([13.0, 15.0, 19.0, 20.0, 22.0, 28.0, 34.0]) * wobble[2]
    else:
        left = np.array([16.0, 18.0, 21.0, 20.0, 20.0, 24.0, 28.0]) * wobble[0]
        right = np.array([16.0, 19.0, 23.0, 21.0, 22.0, 27.0, 32.0]) * wobble[1]
        depth = np.array([34.0, 36.0, 36.0, 30.0, 29.0, 32.0, 37.0]) * wobble[2]
    a, b, z = (_smooth_interp(y, at, values) for values in (left, right, depth))
    middle, half = (b - a) / 2, (a + b) / 2
    offset = (canvas.x[None, :] - middle).astype(np.float32)

    thumb_x, thumb_slope = _thumb(view)
    thumb = (canvas.x[None, :] - thumb_x - thumb_slope * (y - 62)).astype(np.float32)
    ends = np.array([-20.0, 10.0, 50.0, 85.0, 110.0])
    thick = _smooth_interp(y, ends, np.array([10.5, 11.0, 15.0, 13.0, 0.0]))

    def chord(rim: float) -> Image:
        hand = np.sqrt(np.maximum(1 - (offset / (half - rim)) ** 2, 0)) * (2 * (z - rim * 0.7))
        ball = np.sqrt(np.maximum((thick - rim) ** 2 - thumb * thumb, 0)) * 2 * (thick > rim)
        # The fourth root of a sum of fourth powers: a maximum without a crease.
        result: Image = np.sqrt(np.sqrt(hand**4 + ball**4)).astype(np.float32)
        return result

    skin, muscle = chord(0.0), chord(3.2)
    return skin * _FAT + muscle * (_MUSCLE - _FAT)
