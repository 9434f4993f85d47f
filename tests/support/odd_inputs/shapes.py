"""Odd sizes, pixel shapes and numbers of frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from support.odd_inputs.corpus import Case, cr, plain, stored, windowed, xray
from support.odd_inputs.grey import twelve, window
from support.odd_inputs.pixels import eight_bits, seen_8


def tall(rows: int, columns: int) -> NDArray[np.uint16]:
    return np.resize(stored(), (rows, columns)).astype(np.uint16)


def several_frames(count: int) -> FileDataset:
    made = xray(NumberOfFrames=count)
    made.PixelData = made.PixelData * count
    return made


CASES = {
    "Shape": [
        Case(
            "odd rows and columns",
            "an odd number of bytes is padded (PS3.5 8.1.1)",
            lambda: xray(eight_bits()[:151, :133], **window(128, 256)),
            shows=lambda: seen_8()[:151, :133],
        ),
        Case(
            "tiny",
            "3 x 5 pixels",
            lambda: xray(stored()[90:93, 70:75], twelve()),
            shows=lambda: plain()[90:93, 70:75],
        ),
        Case(
            "one pixel",
            "1 x 1",
            lambda: xray(stored()[90:91, 70:71], twelve()),
            "failed: nothing to see: the image has no contrast",
        ),
        Case("one row", "1 x 160", lambda: xray(stored()[90:91], twelve()), shows=lambda: plain()[90:91]),
        Case(
            "a long strip",
            "4 x 3000",
            lambda: xray(tall(4, 3000), twelve()),
            shows=lambda: windowed(tall(4, 3000)),
        ),
        Case(
            "60 megapixels",
            "a stitched image of both legs",
            lambda: xray(tall(10000, 6000), twelve()),
            shows=lambda: windowed(tall(10000, 6000)),
        ),
        Case(
            "PixelAspectRatio",
            "pixels twice as tall as wide (PS3.3 C.7.6.3.1.7)",
            lambda: xray(PixelAspectRatio=[2, 1], ImagerPixelSpacing=None),
            "analyzed; pixels are not square (PixelAspectRatio 2\\1); analyzed as stored",
        ),
        Case(
            "PixelAspectRatio 0", "no ratio", lambda: xray(PixelAspectRatio=[0, 0], ImagerPixelSpacing=None)
        ),
        Case(
            "PixelAspectRatio of one value",
            "it has two (PS3.3 C.7.6.3.1.7)",
            lambda: xray(PixelAspectRatio=2, ImagerPixelSpacing=None),
        ),
        Case(
            "spacing of other rows than columns",
            "ImagerPixelSpacing tells the shape of pixels too (PS3.3 10.7)",
            lambda: xray(ImagerPixelSpacing=[0.2, 0.1]),
        ),
        Case("spacing 0", "no spacing", lambda: xray(ImagerPixelSpacing=[0, 0])),
        Case("one spacing", "it has two values (PS3.3 10.7)", lambda: xray(ImagerPixelSpacing=0.1)),
        Case("spacing that is no number", "PS3.5 6.2 DS", lambda: xray(ImagerPixelSpacing=["NaN", "NaN"])),
        Case("one frame", "NumberOfFrames 1 in an IOD that does not have it", lambda: several_frames(1)),
        Case("NumberOfFrames 0", "at least 1 (PS3.3 C.7.6.6)", lambda: xray(NumberOfFrames=0)),
        Case(
            "two frames",
            "cine or dual energy",
            lambda: several_frames(2),
            "failed: 2 frames in one object; only single-frame images are analyzed",
        ),
        Case("CR", "whose header says less than DX (PS3.3 A.2)", cr),
    ],
}
