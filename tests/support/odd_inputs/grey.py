"""Odd grey scales: inversion, rescale, LUTs and windows."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from pacs_node.records import PERCENTILES_SHOW_MORE
from support.odd_inputs.corpus import (
    CENTER,
    COLUMNS,
    ROWS,
    WIDTH,
    Case,
    Image,
    sequence,
    stored,
    windowed,
    xray,
)

S16 = np.int16
NO_WINDOW: dict[str, object] = {"WindowCenter": None, "WindowWidth": None}
PERCENTILE = "a percentile window was used"
NOTHING = "failed: nothing to see: the image has no contrast"
SIGMOID = "1 / (1 + exp(-4 (x - c) / w))"


def window(center: object, width: object, **more: object) -> dict[str, Any]:
    return {"WindowCenter": center, "WindowWidth": width, **more}


def twelve(**more: object) -> dict[str, object]:
    return {"BitsStored": 12, **more}


def lut(values: NDArray[np.integer], first: int = 0, bits: int = 12, **more: object) -> list[Dataset]:
    """A LUT of one item (PS3.3 C.11.1, C.11.2); 65536 entries are written as 0."""
    (item,) = sequence(LUTDescriptor=[len(values) % 65536, first, bits], LUTData=values.tolist(), **more)
    item["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    item["LUTData"].VR = "US"
    if len(values) > 32767:  # more bytes than a US may have
        item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return [item]


def percentiles(values: NDArray[np.integer], inside: NDArray[np.bool_] | None = None) -> Image:
    """A window from percentile 0.5 to 99.5 of the pixels selected by a mask, computed by sorting."""
    ordered = np.sort(values[inside] if inside is not None else values.ravel()).astype(float)
    low, high = (ordered[int(np.ceil(len(ordered) * part)) - 1] for part in (0.005, 0.995))
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float32)


def inside() -> NDArray[np.bool_]:
    made = np.zeros((ROWS, COLUMNS), bool)
    made[24:-24, 20:-20] = True
    return made


def blank_with_frame_and_letter() -> FileDataset:
    values = np.full((ROWS, COLUMNS), 700, np.uint16)
    values[~inside()] = 0
    cv2.putText(letter := np.zeros_like(values, np.uint8), "L", (30, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    values[letter > 0] = 4095
    values[::40, ::37] = 4000  # hot pixels
    return xray(values, twelve(**NO_WINDOW))


def item(data: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data


CASES = {
    "Grey scale": [
        Case(
            "plain", "DX for presentation, MONOCHROME2, 12 bits in 16: the ordinary X-ray (PS3.3 A.26)", xray
        ),
        Case(
            "MONOCHROME1",
            "DX states INVERSE with it (PS3.3 C.8.11.3.1.2): one inversion, not two",
            lambda: xray(
                4095 - stored(),
                twelve(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
                **window(4096 - CENTER, WIDTH),
            ),
        ),
        Case(
            "MONOCHROME1 of CR",
            "CR has no PresentationLUTShape; the photometric interpretation alone inverts (C.7.6.3.1.2)",
            lambda: xray(
                4095 - stored(),
                twelve(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape=None),
                **window(4096 - CENTER, WIDTH),
            ),
        ),
        Case(
            "MONOCHROME2 with INVERSE",
            "contradictory, and devices do it; the shape decides, as in dcmtk (PS3.3 C.11.6.1.2)",
            lambda: xray(
                4095 - stored(), twelve(PresentationLUTShape="INVERSE"), **window(4096 - CENTER, WIDTH)
            ),
            "analyzed; PresentationLUTShape INVERSE contradicts MONOCHROME2; the shape was used",
        ),
        Case(
            "MONOCHROME1 with IDENTITY",
            "contradictory, and devices do it; the shape decides",
            lambda: xray(PhotometricInterpretation="MONOCHROME1"),
            "analyzed; PresentationLUTShape IDENTITY contradicts MONOCHROME1; the shape was used",
        ),
        Case(
            "rescale",
            "the window is in rescaled units (PS3.3 C.11.1)",
            lambda: xray(
                None, window(CENTER * 2 - 1000.5, WIDTH * 2 - 1), RescaleSlope="2", RescaleIntercept="-1000"
            ),
        ),
        Case(
            "rescale with a negative slope",
            "an inversion by rescale (PS3.3 C.11.1)",
            lambda: xray(4095 - stored(), twelve(RescaleSlope="-1", RescaleIntercept="4095")),
        ),
        Case(
            "rescale slope 0",
            "maps every value to one: nothing can be seen",
            lambda: xray(RescaleSlope="0"),
            f"analyzed; {PERCENTILES_SHOW_MORE}",
            shows=lambda: percentiles(stored()),
            reads=(f"Image 1, PA: {PERCENTILES_SHOW_MORE}",),
            dcmtk=None,
        ),
        Case(
            "rescale slope that is no number",
            "a decimal string of other text (PS3.5 6.2 DS)",
            lambda: xray(RescaleSlope="NaN"),
            "failed: the rescale or window of the image leads to values that are not numbers",
        ),
        Case(
            "modality LUT",
            "a LUT instead of a rescale (PS3.3 C.11.1)",
            lambda: xray(
                4095 - stored(),
                twelve(
                    RescaleSlope=None,
                    RescaleIntercept=None,
                    RescaleType=None,
                    ModalityLUTSequence=lut(np.arange(4095, -1, -1), ModalityLUTType="US"),
                ),
            ),
        ),
        Case(
            "modality LUT without data",
            "Type 1 in the item (PS3.3 C.11.1)",
            lambda: xray(
                ModalityLUTSequence=sequence(LUTDescriptor=[4096, 0, 16]),
                RescaleSlope=None,
                RescaleIntercept=None,
            ),
            "failed: a rescale, window or LUT of the image cannot be read...",
        ),
        Case(
            "VOI LUT",
            "a LUT instead of a window (PS3.3 C.11.2)",
            lambda: xray(
                None, NO_WINDOW, VOILUTSequence=lut(np.round(windowed(np.arange(4096)) * 4095).astype(int))
            ),
            dcmtk=("+Wl", "1"),
        ),
        Case(
            "VOI LUT and window",
            "alternatives of equal right (PS3.3 C.11.2); the LUT is what the device shows",
            lambda: xray(
                None,
                window("1", "2"),
                VOILUTSequence=lut(np.round(windowed(np.arange(4096)) * 4095).astype(int)),
            ),
            dcmtk=("+Wl", "1"),
        ),
        Case(
            "VOI LUT of 65536 entries",
            "their count is written as 0 (PS3.3 C.11.2.1.1)",
            lambda: xray(
                stored() * np.uint16(16),
                None or NO_WINDOW,
                VOILUTSequence=lut(np.round(windowed(np.arange(65536) // 16) * 65535).astype(int), bits=16),
            ),
            dcmtk=("+Wl", "1"),
        ),
        Case(
            "VOI LUT that begins below 0",
            "the first value mapped of signed pixels is signed (PS3.3 C.11.2.1.1)",
            lambda: xray(
                stored().astype(S16) - S16(2048),
                NO_WINDOW,
                VOILUTSequence=lut(np.round(windowed(np.arange(4096)) * 4095).astype(int), first=-2048),
            ),
            dcmtk=("+Wl", "1"),
        ),
        Case(
            "VOI LUT of 65535 bits",
            "an impossible descriptor (PS3.3 C.11.2.1.1)",
            lambda: xray(None, NO_WINDOW, VOILUTSequence=lut(np.arange(4096), bits=65535)),
            "failed: a rescale, window or LUT of the image cannot be read...",
        ),
        Case(
            "several windows",
            "the first counts (PS3.3 C.11.2.1.2)",
            lambda: xray(
                WindowCenter=[CENTER, 100],
                WindowWidth=[WIDTH, 7],
                WindowCenterWidthExplanation=["BONE", "AIR"],
            ),
        ),
        Case(
            "more centers than widths",
            "the first pair is complete",
            lambda: xray(WindowCenter=[CENTER, 5], WindowWidth=WIDTH),
            dcmtk=None,
        ),
        Case(
            "LINEAR_EXACT",
            "PS3.3 C.11.2.1.3.2",
            lambda: xray(VOILUTFunction="LINEAR_EXACT"),
            shows=lambda: np.clip((stored() - CENTER) / WIDTH + 0.5, 0, 1).astype(np.float32),
            dcmtk=None,
        ),
        Case(
            "SIGMOID",
            f"PS3.3 C.11.2.1.3.1: {SIGMOID}; dcmtk knows another formula",
            lambda: xray(VOILUTFunction="SIGMOID"),
            shows=lambda: (1 / (1 + np.exp(-4 * (stored() - CENTER) / WIDTH))).astype(np.float32),
            dcmtk=None,
        ),
        Case(
            "unknown VOI LUT function",
            "a vendor's own term (PS3.3 C.11.2.1.3)",
            lambda: xray(VOILUTFunction="ACME"),
            "analyzed; VOILUTFunction is unknown; LINEAR was used",
        ),
        Case(
            "window width 1",
            "a step: black up to the center - 0.5, white above (PS3.3 C.11.2.1.2.1); no gray is left",
            lambda: xray(**window(1500, 1)),
            f"analyzed; {PERCENTILES_SHOW_MORE}",
            shows=lambda: percentiles(stored()),
            dcmtk=None,
            reads=(PERCENTILES_SHOW_MORE,),
        ),
        Case(
            "window 0/1",
            "what some devices write for none; all is white",
            lambda: xray(stored() + np.uint16(1), **window(0, 1)),
            f"analyzed; {PERCENTILES_SHOW_MORE}",
            shows=lambda: percentiles(stored()),
            dcmtk=None,
            reads=(PERCENTILES_SHOW_MORE,),
        ),
        Case(
            "window 0/1 of MONOCHROME1",
            "all is black, and the percentile window is inverted, too",
            lambda: xray(
                np.uint16(4095) - stored(),
                twelve(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
                **window(-1, 1),
            ),
            f"analyzed; {PERCENTILES_SHOW_MORE}",
            shows=lambda: 1 - percentiles(np.uint16(4095) - stored()),
            dcmtk=None,
            reads=(PERCENTILES_SHOW_MORE,),
        ),
        Case(
            "window above all pixels",
            "left in the header from before the values were rescaled; all is black",
            lambda: xray(**window(40000, 1000)),
            f"analyzed; {PERCENTILES_SHOW_MORE}",
            shows=lambda: percentiles(stored()),
            dcmtk=None,
            reads=(PERCENTILES_SHOW_MORE,),
        ),
        Case(
            "VOI LUT of one value",
            "a failed export: all is one gray",
            lambda: xray(None, NO_WINDOW, VOILUTSequence=lut(np.full(4096, 2048))),
            f"analyzed; {PERCENTILES_SHOW_MORE}",
            shows=lambda: percentiles(stored()),
            dcmtk=None,
            reads=(PERCENTILES_SHOW_MORE,),
        ),
        Case(
            "window width 0",
            "not allowed with LINEAR (PS3.3 C.11.2.1.2.1)",
            lambda: xray(**window(1500, 0)),
            f"analyzed; WindowWidth 0 is not valid with LINEAR; {PERCENTILE}",
            shows=lambda: percentiles(stored()),
            dcmtk=None,
        ),
        Case(
            "window width below 0",
            "seen where a device inverts by it",
            lambda: xray(**window(1500, -2655)),
            f"analyzed; WindowWidth -2655 is not valid with LINEAR; {PERCENTILE}",
            shows=lambda: percentiles(stored()),
            dcmtk=None,
        ),
        Case(
            "window that is no number",
            "a decimal string of other text (PS3.5 6.2 DS)",
            lambda: xray(**window("NaN", "100")),
            "failed: the rescale or window of the image leads to values that are not numbers",
        ),
        Case(
            "no window",
            "both are Type 1C; without them any window is as good (PS3.3 C.11.2)",
            lambda: xray(None, NO_WINDOW),
            shows=lambda: percentiles(stored()),
            dcmtk=None,
        ),
        Case(
            "empty window",
            "devices write the attributes without values",
            lambda: xray(**window("", "")),
            shows=lambda: percentiles(stored()),
            dcmtk=None,
        ),
        Case(
            "center without width",
            "one is required where the other is present (PS3.3 C.11.2)",
            lambda: xray(WindowWidth=None),
            f"analyzed; WindowCenter or WindowWidth is missing; {PERCENTILE}",
            shows=lambda: percentiles(stored()),
            dcmtk=None,
        ),
        Case(
            "one value everywhere",
            "a blank exposure",
            lambda: xray(np.full((ROWS, COLUMNS), 700, np.uint16), twelve(**NO_WINDOW)),
            NOTHING,
        ),
        Case(
            "one value everywhere, in a window",
            "a blank exposure in the middle of its window",
            lambda: xray(np.full((ROWS, COLUMNS), 1500, np.uint16), twelve()),
            NOTHING,
        ),
        Case(
            "one value but for rounding",
            "a blank exposure that was computed in floating point",
            lambda: xray(
                np.random.default_rng(4).integers(699, 702, (ROWS, COLUMNS), np.uint16), twelve(**NO_WINDOW)
            ),
            NOTHING,
        ),
        Case(
            "one value in a frame, with a letter",
            "nothing but what the collimator and the device drew is to be seen",
            blank_with_frame_and_letter,
            NOTHING,
        ),
    ],
}
