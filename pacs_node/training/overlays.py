"""Overlays that hide no marks: letters, metal, casts, the traces of a scanner."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import ArrayLike

from pacs_node.training.scenes import Floats, Image, Rng, Scene, blurred, bounded, drawn, rotation, single

MOST_HIDDEN, MOST_LETTERED = 0.25, 0.1
"""Largest part of the marks that an overlay may change, and that letters may change."""
VISIBLE = 0.15
"""A change of brightness that can hide what was there."""
LETTERS = ("L", "R", "LT", "RT", "L KS", "R 12", "PA", "LAT", "OBL", "WB")
WORDS = (
    "ID",
    "12:41",
    "2019-03-02",
    "kV 55",
    "mAs 3.2",
    "HOSP",
    "LEFT",
    "AP",
    "F 034Y",
    "#4471",
    "Se:1 Im:2",
)
TEXT_HEIGHT = 22.0
"""Pixels of a line of text at OpenCV's scale 1."""
METAL_KINDS = {"plate": 0.4, "wire": 0.25, "screw": 0.15, "ring": 0.1, "clip": 0.1}


def lettered(scene: Scene, rng: Rng) -> Scene:
    """Lead letters and burned-in text, mostly near an edge."""
    image = scene.image
    rows, columns = image.shape
    for _ in range(int(rng.integers(1, 4))):
        lead = rng.random() < 0.6
        text = str(rng.choice(LETTERS)) if lead else " ".join(rng.choice(WORDS, int(rng.integers(1, 4))))
        size = rng.uniform(0.03, 0.1) if lead else rng.uniform(0.02, 0.045)
        size *= max(rows, columns) / TEXT_HEIGHT
        stroke = max(1, round(size * rng.uniform(1, 3.2)))
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX]))
        (width, height), _ = cv2.getTextSize(text, font, size, stroke)
        tile = np.zeros((height * 2 + 6, width + 6), np.uint8)
        cv2.putText(tile, text, (3, height + height // 2 + 2), font, size, [255], stroke, cv2.LINE_AA)
        if rng.random() < 0.2:
            cv2.rectangle(tile, (0, 0), (tile.shape[1] - 1, tile.shape[0] - 1), [255], max(1, stroke // 2))
        if rng.random() < 0.2:
            tile = 255 - tile if rng.random() < 0.4 else np.ascontiguousarray(tile[:, ::-1])
        place = rng.random(2)
        if rng.random() < 0.75:
            place[int(rng.integers(2))] = rng.choice([rng.uniform(0.03, 0.15), rng.uniform(0.85, 0.97)])
        centre = np.array(tile.shape[::-1]) / 2
        angle = float(rng.choice([0, 0, 0, 90, 180, 270]) + rng.normal(0, 8))
        matrix = np.asarray(cv2.getRotationMatrix2D(centre.tolist(), angle, 1.0), np.float64)
        matrix[:, 2] += place * [columns, rows] - centre
        layer = cv2.warpAffine(tile, matrix, (columns, rows), flags=cv2.INTER_LINEAR)
        image = _overlaid(image, layer, float(rng.choice([1.0, 1.0, 0.95, 0.85])))
    return _unless_hidden(scene, image, MOST_LETTERED)


def metal(scene: Scene, rng: Rng) -> Scene:
    """Plates, wires, screws, rings and clips on something exposed, mostly along the bone under it."""
    image = scene.image
    rows, columns = image.shape
    side = max(rows, columns)
    exposed = np.quantile(image[::8, ::8], 0.55)
    for _ in range(8):
        at = rng.uniform(0.2, 0.8, 2) * [columns, rows]
        if image[int(at[1]), int(at[0])] > exposed:
            break
    layer = np.zeros((rows, columns), np.uint8)

    def line(start: Floats, end: Floats, width: float) -> None:
        first, last = ([round(value) for value in point.tolist()] for point in (start, end))
        cv2.line(layer, first, last, [255], max(1, round(width)), cv2.LINE_AA)

    def disc(centre: Floats, radius: float, value: int) -> None:
        pixel = [round(position) for position in centre.tolist()]
        cv2.circle(layer, pixel, max(1, round(radius)), [value], -1, cv2.LINE_AA)

    angle = _direction(image, at, side // 10) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    along, across = rotation(angle).T
    match drawn(METAL_KINDS, rng):
        case "plate":
            half, width = along * rng.uniform(0.05, 0.2) * side, max(2.0, rng.uniform(0.008, 0.03) * side)
            line(at - half, at + half, width)
            for part in np.linspace(-0.86, 0.86, int(rng.integers(3, 9))):
                hole = at + half * part
                if rng.random() < 0.7:
                    line(hole, hole + across * rng.uniform(0.03, 0.09) * side, width / 2)
                else:
                    disc(hole, width * 0.3, 0)
        case "wire":
            for _ in range(int(rng.integers(1, 4))):
                start = at + rng.normal(0, 0.02, 2) * side
                reach = rotation(rng.normal(0, 0.35)) @ along * rng.uniform(0.1, 0.45) * side
                line(start, start + reach, rng.uniform(0.003, 0.009) * side)
        case "screw":
            for _ in range(int(rng.integers(1, 3))):
                head = at + rng.normal(0, 0.04, 2) * side
                line(head, head + across * rng.uniform(0.05, 0.14) * side, max(2.0, 0.012 * side))
                disc(head, max(2.0, 0.013 * side), 255)
        case "ring":
            centre, axes = (
                np.round(v).astype(int).tolist() for v in (at, rng.uniform(0.015, 0.05, 2) * side + 2)
            )
            width = max(1, round(rng.uniform(0.006, 0.02) * side))
            cv2.ellipse(layer, centre, axes, float(np.rad2deg(angle)), 0, 360, [255], width, cv2.LINE_AA)
        case "clip":
            for number in range(int(rng.integers(3, 12))):
                start = at + along * number * 0.025 * side
                line(start, start + across * 0.015 * side, 0.005 * side)
    value = max(rng.uniform(0.85, 1), float(np.quantile(image[::8, ::8], 0.98)))
    return _unless_hidden(scene, _overlaid(image, layer, value, rng.uniform(0.75, 1)))


def cast(scene: Scene, rng: Rng) -> Scene:
    """A plaster or fibre cast, a splint or a bandage: a textured band that absorbs a little."""
    rows, columns = scene.image.shape
    side = max(rows, columns)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    middle = rng.uniform(0.35, 0.65, 2) * [columns, rows]
    bends = rng.standard_normal((6, 6), np.float32) * np.float32(0.02 * side)
    axis = (x - middle[0]) * np.cos(angle) + (y - middle[1]) * np.sin(angle)
    distance = np.abs(axis + cv2.resize(bends, (columns, rows), interpolation=cv2.INTER_CUBIC))
    half = rng.uniform(0.12, 0.4) * side
    inside = 1 / (1 + np.exp(np.clip((distance - half) / rng.uniform(0.5, 4), -30, 30)))
    # It is thicker where the beam meets it on edge.
    rim = np.exp(-(((distance - half * 0.96) / (0.03 * side)) ** 2)) * rng.uniform(0, 0.3)
    grain = blurred(rng.standard_normal((rows, columns), np.float32), rng.uniform(1, 4))
    grain = grain / (grain.std() + 1e-6)
    if rng.random() < 0.4:
        period = rng.uniform(5, 16)
        for lean in (-0.8, 0.8):
            thread = x * np.cos(angle + lean) + y * np.sin(angle + lean)
            grain = single(0.7 * grain + 0.5 * np.sin(2 * np.pi * thread / period))
    thickness = rng.uniform(0.08, 0.3) * (1 + rng.uniform(0.05, 0.25) * grain) + rim
    # Absorption adds up: what is bright already gains less.
    return replace(scene, image=bounded(scene.image + inside * thickness * (1 - scene.image)))


def scanned(scene: Scene, rng: Rng) -> Scene:
    """A film on a scanner: edges, uneven light, lines."""
    image = scene.image.copy()
    rows, columns = image.shape
    edge = max(1, int(rng.uniform(0.005, 0.05) * max(rows, columns)))
    value = float(rng.choice([0.0, 1.0, rng.random()]))
    for strip in (np.s_[:edge], np.s_[-edge:], np.s_[:, :edge], np.s_[:, -edge:]):
        if rng.random() < 0.4:
            image[strip] = value
    if rng.random() < 0.6:
        slopes = rng.uniform(-0.3, 0.3, 2)
        x, y = np.linspace(-0.5, 0.5, columns), np.linspace(-0.5, 0.5, rows)[:, None]
        image = single(image * (1 + slopes[0] * x + slopes[1] * y) + rng.uniform(0, 0.12) * (x + 0.5))
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 4))):
            start, end = ((rng.random(2) * [columns, rows]).astype(int).tolist() for _ in range(2))
            layer = np.zeros((rows, columns), np.uint8)
            cv2.line(layer, start, end, [255], 1, cv2.LINE_AA)
            image = single(image + single(layer) / 255 * rng.uniform(-0.3, 0.4))
    return _unless_hidden(scene, image)


def _overlaid(image: Image, layer: ArrayLike, value: float, opacity: float = 1.0) -> Image:
    """The image under a layer (0..255) of one brightness."""
    alpha = blurred(single(layer), 0.6) * np.float32(opacity / 255)
    return image + alpha * (np.float32(value) - image)


def _direction(image: Image, at: Floats, half: int) -> float:
    """The direction of the edges around a point, from the structure tensor."""
    column, row = int(at[0]), int(at[1])
    patch = image[max(0, row - half) : row + half, max(0, column - half) : column + half]
    dy, dx = np.gradient(patch)
    return float(0.5 * np.arctan2(2 * (dx * dy).sum(), (dx * dx - dy * dy).sum()) + np.pi / 2)


def _unless_hidden(scene: Scene, changed: Image, most: float = MOST_HIDDEN) -> Scene:
    """The scene with the changed image, or as it was where more than `most` of the marks would change."""
    marks = np.zeros(scene.image.shape, np.uint8)
    for points in scene.outlines:
        cv2.fillPoly(marks, [np.round(points - 0.5).astype(np.int32)], [1])
    marked = marks > 0
    if marked.any() and (np.abs(changed - scene.image)[marked] > VISIBLE).mean() > most:
        return scene
    return replace(scene, image=bounded(changed))
