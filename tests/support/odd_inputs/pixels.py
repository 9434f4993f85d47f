"""Odd pixels: padding, burned-in content, and sample formats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from support.odd_inputs.corpus import CENTER, COLUMNS, ROWS, WIDTH, Case, Image, plain, stored, windowed, xray
from support.odd_inputs.grey import NO_WINDOW, S16, inside, percentiles, twelve, window


def eight_bits() -> NDArray[np.uint8]:
    return np.asarray(np.round(plain() * 255), np.uint8)


def colour() -> NDArray[np.uint8]:
    return np.repeat(eight_bits()[:, :, None], 3, axis=2)


def ybr() -> NDArray[np.uint8]:
    """Gray in YCbCr: chrominance is 128."""
    made = np.full((ROWS, COLUMNS, 3), 128, np.uint8)
    made[:, :, 0] = eight_bits()
    return made


def seen_8() -> Image:
    return np.asarray(eight_bits() / 255, np.float32)


def framed(value: int, dtype: type[np.integer] = np.uint16) -> NDArray[np.integer]:
    """The phantom with a frame of one value, as a collimator or a stitching program leaves it."""
    made = stored().astype(dtype)
    made[:24], made[-24:], made[:, :20], made[:, -20:] = value, value, value, value
    return made


def left_aligned() -> FileDataset:
    return xray((stored() << 4) | 5, BitsStored=12, HighBit=15)


def with_overlay(rows: int, columns: int) -> FileDataset:
    """The phantom with an overlay plane of ones (PS3.3 C.9.2), possibly larger than the image."""
    made = xray()
    bits = b"\xff" * (rows * columns // 8 // 2 * 2)
    for element, vr, value in (
        (0x10, "US", rows),
        (0x11, "US", columns),
        (0x40, "CS", "G"),
        (0x50, "SS", [1, 1]),
        (0x100, "US", 1),
        (0x102, "US", 0),
        (0x3000, "OW", bits),
    ):
        made.add_new((0x6000, element), vr, value)
    return made


def palette() -> FileDataset:
    made = xray(eight_bits(), PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(
            made, f"{name}PaletteColorLookupTableData", np.arange(0, 65536, 256, dtype=np.uint16).tobytes()
        )
    return made


def packed_12() -> FileDataset:
    pairs = stored().reshape(-1, 2).astype(np.uint32)
    triples = np.stack(
        [pairs[:, 0] & 255, (pairs[:, 0] >> 8) | ((pairs[:, 1] & 15) << 4), pairs[:, 1] >> 4], axis=1
    )
    return xray(PixelData=triples.astype(np.uint8).tobytes(), BitsAllocated=12)


CASES = {
    "Padding, shutters and what is burned in": [
        Case(
            "padding value",
            "pixels that are no image must not decide the window (PS3.3 C.7.5.1.1.2)",
            lambda: xray(framed(4000), twelve(**NO_WINDOW, PixelPaddingValue=4000)),
            shows=lambda: percentiles(framed(4000), inside()),
            dcmtk=None,
        ),
        Case(
            "padding range",
            "from PixelPaddingValue to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2)",
            lambda: xray(
                framed(4050), twelve(**NO_WINDOW, PixelPaddingValue=4095, PixelPaddingRangeLimit=4000)
            ),
            shows=lambda: percentiles(framed(4050), inside()),
            dcmtk=None,
        ),
        Case(
            "signed padding value",
            "its VR is that of the pixels (PS3.5 A)",
            lambda: xray(framed(-2000, S16), {**NO_WINDOW, "PixelPaddingValue": -2000}),
            shows=lambda: percentiles(framed(-2000, S16), inside()),
            dcmtk=None,
        ),
        Case(
            "padding everywhere",
            "then it is the image",
            lambda: xray(None, NO_WINDOW, PixelPaddingValue=0, PixelPaddingRangeLimit=4095),
            shows=lambda: percentiles(stored()),
            dcmtk=None,
        ),
        Case(
            "shutter",
            "it is for displays and may hide a part that is needed: analyzed as stored (PS3.3 C.7.6.11)",
            lambda: xray(
                ShutterShape="RECTANGULAR",
                ShutterLeftVerticalEdge=20,
                ShutterRightVerticalEdge=140,
                ShutterUpperHorizontalEdge=24,
                ShutterLowerHorizontalEdge=168,
                ShutterPresentationValue=0,
            ),
        ),
        Case(
            "burned-in collimation, black",
            "the usual; it is part of the picture",
            lambda: xray(framed(0), twelve()),
            shows=lambda: windowed(framed(0)),
        ),
        Case(
            "burned-in collimation, white",
            "some devices whiten what the collimator hid",
            lambda: xray(framed(4095), twelve()),
            shows=lambda: windowed(framed(4095)),
        ),
        Case(
            "burned-in annotation",
            "BurnedInAnnotation YES is handed on to the capture (PS3.3 C.7.6.1.1.1)",
            lambda: xray(BurnedInAnnotation="YES"),
        ),
        Case(
            "overlay plane",
            "drawn by viewers, no part of the image (PS3.3 C.9.2)",
            lambda: with_overlay(ROWS, COLUMNS),
            dcmtk=("+Wi", "1", "-O"),
        ),
        Case(
            "overlay larger than the image",
            "breaks readers that draw it",
            lambda: with_overlay(512, 512),
            dcmtk=("+Wi", "1", "-O"),
        ),
        Case(
            "overlay in the high bits",
            "retired, still in archives: bits above BitsStored are not the image (PS3.5 8.1.2)",
            lambda: xray(
                stored() | np.where(inside(), np.uint16(0xA000), np.uint16(0x1000)),
                twelve(),
            ),
            dcmtk=("+Wi", "1", "-O"),
        ),
    ],
    "Samples": [
        Case(
            "signed pixels",
            "PixelRepresentation 1 (PS3.3 C.7.6.3.1)",
            lambda: xray(stored().astype(S16) - S16(2000), **window(CENTER - 2000, WIDTH)),
        ),
        Case(
            "signed pixels of 12 bits",
            "the sign is the 12th bit, the bits above it are anything",
            lambda: xray(
                (stored().astype(S16) - S16(2048)) & 0x0FFF,
                {"BitsStored": 12, "PixelRepresentation": 1},
                **window(CENTER - 2048, WIDTH),
            ),
        ),
        Case(
            "8 bits",
            "CR of film digitizers",
            lambda: xray(eight_bits(), **window(127.5 + 0.5, 256)),
            shows=seen_8,
        ),
        Case(
            "10 bits",
            "BitsStored 10",
            lambda: xray(stored() >> 2, BitsStored=10, **window(CENTER / 4, WIDTH / 4)),
            shows=lambda: windowed(stored() >> 2, CENTER / 4, WIDTH / 4),
        ),
        Case(
            "14 bits",
            "BitsStored 14",
            lambda: xray(stored() << 2, BitsStored=14, **window(CENTER * 4, WIDTH * 4)),
            shows=lambda: windowed(stored() << 2, CENTER * 4, WIDTH * 4),
        ),
        Case(
            "15 bits",
            "BitsStored 15",
            lambda: xray(stored() << 3, BitsStored=15, **window(CENTER * 8, WIDTH * 8)),
            shows=lambda: windowed(stored() << 3, CENTER * 8, WIDTH * 8),
        ),
        Case(
            "16 bits",
            "BitsStored 16",
            lambda: xray(stored() << 4, **window(CENTER * 16, WIDTH * 16)),
            shows=lambda: windowed(stored() << 4, CENTER * 16, WIDTH * 16),
        ),
        Case(
            "high bit 15 of 12 bits",
            "the image lies in the upper bits, an overlay or nothing below (PS3.5 8.1.1, older editions)",
            left_aligned,
            "analyzed; HighBit 15: the 4 bits below the image were left out",
        ),
        Case(
            "high bit below the bits stored",
            "no image can lie there; taken as bits stored - 1",
            lambda: xray(HighBit=3),
            "analyzed; HighBit is not BitsStored - 1 = 11; it was taken as that",
            dcmtk=None,
        ),
        Case(
            "12 bits packed",
            "ACR-NEMA packing, retired (PS3.5 8.1.1)",
            packed_12,
            "failed: BitsAllocated 12 with BitsStored 12; 8 or 16...",
        ),
        Case(
            "1 bit",
            "a segmentation or a fax",
            lambda: xray(BitsAllocated=1, BitsStored=1),
            "failed: BitsAllocated 1 with BitsStored 1; 8 or 16...",
        ),
        Case(
            "32 bits",
            "allowed by no X-ray IOD",
            lambda: xray(BitsAllocated=32, PixelData=stored().astype("<u4").tobytes()),
            "failed: BitsAllocated 32 with BitsStored 12; 8 or 16...",
        ),
        Case(
            "more bits stored than allocated",
            "wrong header",
            lambda: xray(BitsStored=17),
            "failed: BitsAllocated 16 with BitsStored 17; 8 or 16...",
        ),
        Case(
            "8 bits allocated for 16",
            "wrong BitsAllocated: the pixel data is twice as long as it says",
            lambda: xray(BitsAllocated=8, BitsStored=8),
            "failed: the pixel data has 61440 bytes, the header says 30720",
        ),
        Case(
            "RGB",
            "a colour X-ray of a digitizer or a phone (PS3.3 C.7.6.3.1.2)",
            lambda: xray(colour()),
            "analyzed; RGB image; its luminance was analyzed",
            seen_8,
            tolerance=0.004,
            dcmtk=(),
        ),
        Case(
            "RGB by plane",
            "PlanarConfiguration 1",
            lambda: xray(colour(), PlanarConfiguration=1, PixelData=np.moveaxis(colour(), 2, 0).tobytes()),
            "analyzed; RGB image; its luminance was analyzed",
            seen_8,
            tolerance=0.004,
            dcmtk=(),
        ),
        Case(
            "YBR_FULL",
            "uncompressed YCbCr (PS3.3 C.7.6.3.1.2)",
            lambda: xray(ybr(), PhotometricInterpretation="YBR_FULL"),
            "analyzed; YBR_FULL image; its luminance was analyzed",
            seen_8,
            tolerance=0.006,
            dcmtk=(),
        ),
        Case(
            "signed colour",
            "allowed nowhere",
            lambda: xray(colour(), PixelRepresentation=1),
            "failed: colour with signed values; only unsigned colour is analyzed",
        ),
        Case(
            "two samples",
            "SamplesPerPixel is 1 or 3",
            lambda: xray(SamplesPerPixel=2),
            "failed: the pixel data has 61440 bytes, the header says 122880",
        ),
        Case(
            "palette",
            "an X-ray in false colours",
            palette,
            "failed: PALETTE COLOR; only gray, RGB and YBR images are analyzed",
        ),
    ],
}
