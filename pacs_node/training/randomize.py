"""Domain randomisation: the radiographs of one source as other hospitals' equipment might show them.

Each effect takes a scene and a random generator and returns a scene with the same meaning: geometry moves the
outlines along, and nothing that is laid over the image may hide the marks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import numpy as np

from pacs_node.training import dataset
from pacs_node.training.dataset import Mark, Sample
from pacs_node.training.overlays import cast, lettered, metal, scanned
from pacs_node.training.scenes import (
    MARGIN,
    SLIGHT_TURN,
    Rng,
    Scene,
    blurred,
    bounded,
    drawn,
    moved,
    quartered,
    rotation,
    several,
    single,
    turned,
)

TURNS = {"any angle": 0.325, "quarters": 0.325, "slight": 0.35}
"""Shares of the ways in which `vary` turns an image."""
SEVERAL_SHARE = 0.1
"""Share of the images that share their frame with another view."""
FRAME_TONES = {"black": 0.35, "dark": 0.15, "gray": 0.2, "white": 0.2, "air": 0.1}
JPEG_QUALITY = (15, 90)

Effect = Callable[[Scene, Rng], Scene]


def toned(scene: Scene, rng: Rng) -> Scene:
    """Another gamma, window and characteristic curve."""
    image = np.power(scene.image, np.exp(rng.uniform(-0.7, 0.7)))
    if rng.random() < 0.5:
        black, white = rng.uniform(-0.25, 0.125), rng.uniform(0.75, 1.25)
        image = np.clip((image - black) / (white - black), 0, 1)
    if rng.random() < 0.3:
        s_curve = image * image * (3 - 2 * image)
        image = image + rng.uniform(-0.8, 1) * (s_curve - image)
    return replace(scene, image=bounded(image))


def faint(scene: Scene, rng: Rng) -> Scene:
    """Low contrast: a narrow range of grays, every second time under a veil of scatter."""
    span, image = rng.uniform(0.25, 0.7), scene.image
    if rng.random() < 0.5:
        image = image + np.float32(rng.uniform(0.2, 0.7)) * (blurred(image, max(image.shape) / 12) - image)
    return replace(scene, image=bounded(rng.uniform(0, 1 - span) + span * image))


def inverted(scene: Scene, rng: Rng) -> Scene:
    """Black and white exchanged."""
    return replace(scene, image=1 - scene.image)


def framed(scene: Scene, rng: Rng) -> Scene:
    """A collimator: a turned quadrilateral of the image, with all marks, in a gray, black or white frame."""
    image = scene.image
    rows, columns = image.shape
    middle = np.array([columns, rows]) / 2
    turns = [0.0, rng.normal(0, 6), rng.uniform(-45, 45)]
    turn = rotation(np.deg2rad(rng.choice(turns, p=[0.4, 0.4, 0.2])))
    centre = middle * (1 + rng.uniform(-0.06, 0.06, 2))
    signs = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    uneven = rng.normal(0, 0.02, (4, 2)) * (rng.random() < 0.3)
    reach = np.abs(signs * rng.uniform(0.7, 1.05, 2) + uneven) * middle
    for points in scene.outlines:
        reach = np.maximum(reach, np.abs((points - centre) @ turn).max(axis=0) + MARGIN)
    # The detector is often larger than what is exposed.
    larger = rng.uniform(0, 0.45, 2) * (rng.random() < 0.6) * image.shape
    pad = [(int(before), int(after)) for before, after in rng.random((2, 2)) * larger[:, None]]
    origin = np.array([pad[1][0], pad[0][0]], np.float64)
    corners = (signs * reach) @ turn.T + centre + origin
    air = float(np.quantile(image[::8, ::8], 0.02))
    dark, gray, white = rng.uniform(0.02, 0.2), rng.uniform(0.2, 0.8), rng.uniform(0.9, 1.0)
    tones = {"black": 0.0, "dark": dark, "gray": gray, "white": white, "air": air}
    tone = np.float32(tones[drawn(FRAME_TONES, rng)])
    picture = np.pad(np.full((rows, columns), 255, np.uint8), pad)
    opening = np.zeros_like(picture)
    cv2.fillPoly(opening, [np.round((corners - 0.5) * 16).astype(np.int32)], [255], cv2.LINE_AA, shift=4)
    exposed = single(np.minimum(opening, picture)) / np.float32(255)
    if rng.random() < 0.5:
        exposed = blurred(exposed, rng.uniform(0.5, 4))
    wide = np.pad(image, pad, constant_values=tone)
    ground = np.full(wide.shape, tone, np.float32)
    if rng.random() < 0.3:  # scatter reaches under the shutters
        ground += np.float32(rng.uniform(0.05, 0.25)) * blurred(wide - tone, max(wide.shape) / 20)
    return Scene(bounded(wide * exposed + ground * (1 - exposed)), moved(scene.outlines, np.eye(2), origin))


def coarse(scene: Scene, rng: Rng) -> Scene:
    """Blur, fewer pixels, noise and JPEG, each now and then."""
    image = scene.image
    rows, columns = image.shape
    if rng.random() < 0.3:
        image = blurred(image, rng.uniform(0.4, 1.6))
    if rng.random() < 0.2:
        rows_left, columns_left = (max(1, round(rng.uniform(0.45, 0.9) * n)) for n in (rows, columns))
        small = cv2.resize(image, (columns_left, rows_left), interpolation=cv2.INTER_AREA)
        image = single(cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR))
    if rng.random() < 0.4:
        grain = rng.standard_normal(image.shape, np.float32)
        grain = 2 * blurred(grain, 0.8) if rng.random() < 0.5 else grain
        image = image + grain * np.float32(rng.uniform(0, 0.06))
    if rng.random() < 0.4:
        stored = np.round(bounded(image) * 255).astype(np.uint8)
        quality = int(rng.integers(*JPEG_QUALITY))
        _, encoded = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))
        image = single(decoded / 255)
    return replace(scene, image=bounded(image))


EFFECTS: Mapping[str, Effect] = {
    "turned": turned,
    "several": several,
    "metal": metal,
    "cast": cast,
    "lettered": lettered,
    "framed": framed,
    "toned": toned,
    "faint": faint,
    "inverted": inverted,
    "scanned": scanned,
    "coarse": coarse,
}
CHAIN: tuple[tuple[Effect, float], ...] = (
    (metal, 0.15),
    (cast, 0.12),
    (lettered, 0.25),
    (framed, 0.5),
    (toned, 0.7),
    (faint, 0.15),
    (inverted, 0.1),
    (lettered, 0.2),
    (scanned, 0.12),
    (coarse, 0.6),
)
"""Effects with their shares, in the order of nature: limb, detector, processing, archive."""


def vary(scene: Scene, rng: Rng, other: Scene | None = None) -> Scene:
    """A random look out of all effects. `other` may come into the same frame; default: the scene itself."""
    if rng.random() < SEVERAL_SHARE:
        scene = several(scene, rng, other)
    turn = drawn(TURNS, rng)
    if turn == "quarters":
        scene = quartered(scene, rng)
    scene = turned(scene, rng, 180.0 if turn == "any angle" else SLIGHT_TURN)
    for effect, share in CHAIN:
        if rng.random() < share:
            scene = effect(scene, rng)
    return scene


def unseen(scene: Scene, rng: Rng) -> Scene:
    """A look that training never shows: local contrast or edge enhancement, and a round aperture."""
    scene = turned(quartered(scene, rng), rng, 30.0)
    image = scene.image
    if rng.random() < 0.5:
        equalize = cv2.createCLAHE(clipLimit=rng.uniform(2, 5), tileGridSize=(8, 8))
        image = single(np.asarray(equalize.apply(np.round(image * 255).astype(np.uint8))) / 255)
    else:
        image = image + np.float32(rng.uniform(0.8, 2)) * (image - blurred(image, rng.uniform(2, 8)))
    if rng.random() < 0.6:
        rows, columns = image.shape
        middle = np.array([columns, rows]) / 2
        radius = middle * rng.uniform(0.9, 1.15)
        away = [np.hypot(*((points - middle) / radius).T).max() for points in scene.outlines]
        radius = radius * max([1.0, *(1.06 * distance for distance in away)])
        x, y = np.arange(columns) + 0.5 - middle[0], np.arange(rows)[:, None] + 0.5 - middle[1]
        image = np.where(
            np.hypot(x / radius[0], y / radius[1]) <= 1, image, rng.choice([0.0, 0.05, 0.5, 1.0])
        )
    return replace(scene, image=bounded(bounded(image) ** np.exp(rng.uniform(-0.4, 0.4))))


LOOKS: Mapping[str, Effect] = {"shifted": vary, "unseen": unseen}
"""The looks that an evaluation measures, by the name of their set of images."""


def read(sample: Sample) -> Scene:
    """A sample's display image and outlines. Raises InputError if it cannot be read."""
    return Scene(dataset.display(sample.path), tuple(np.array(mark.polygon, float) for mark in sample.marks))


def look(sample: Sample, name: str, seed: int) -> tuple[Scene, tuple[Mark, ...]]:
    """A sample under one of the `LOOKS`, with its marks; the same for the same seed and file name."""
    varied = LOOKS[name](read(sample), np.random.default_rng((seed, zlib.crc32(sample.path.name.encode()))))
    marks = []
    for points in varied.outlines:
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        polygon = tuple((float(x), float(y)) for x, y in points)
        marks.append(Mark(box=(left, top, right - left, bottom - top), polygon=polygon))
    return varied, tuple(marks)
