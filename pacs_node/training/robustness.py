"""What a model makes of the same images when they are shown, taken or stored a little worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def _rotated(image: Image, degrees: float) -> Image:
    """Turned about its centre in a frame of the same size, black beyond the image."""
    rows, columns = image.shape
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (columns, rows), flags=cv2.INTER_LINEAR), np.float32)


def _compressed(image: Image, quality: int) -> Image:
    _, encoded = cv2.imencode(
        ".jpg", np.round(image * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    decoded = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    return np.asarray(decoded, np.float32) / np.float32(255)


def _noisy(image: Image, deviation: float) -> Image:
    noise = np.random.default_rng(0).standard_normal(image.shape, np.float32)
    return np.clip(image + np.float32(deviation) * noise, 0, 1)


DISTURBANCES: Mapping[str, Callable[[Image], Image]] = {
    "window 1.5 times as wide": lambda image: (image + 0.25) / np.float32(1.5),
    "window half as wide": lambda image: np.clip(2 * image - 0.5, 0, 1),
    "window center 15 % higher": lambda image: np.clip(image - np.float32(0.15), 0, 1),
    "noise, deviation 2 % of the range": lambda image: _noisy(image, 0.02),
    "JPEG, quality 30": lambda image: _compressed(image, 30),
    "rotated by 10 degrees": lambda image: _rotated(image, 10),
    "rotated by 90 degrees": lambda image: np.ascontiguousarray(np.rot90(image)),
    "inverted (wrong photometric interpretation)": lambda image: 1 - image,
}
"""By name; display images (rows, columns), float32 0..1, to the same."""
