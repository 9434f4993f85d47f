"""Small training sets: pictures that differ from each other, and tables of labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def picture(seed: int, rows: int = 80, columns: int = 64) -> NDArray[np.uint8]:
    """A picture that differs from that of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (rows // 8, columns // 8), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
