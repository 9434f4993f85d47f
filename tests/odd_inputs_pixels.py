"""Odd grey scales, sample formats and shapes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from odd_inputs import CENTER, COLUMNS, ROWS, WIDTH, Case, Image, cr, plain, sequence, stored, windowed, xray
from pydicom.dataset import Dataset, FileDataset

S16 = np.int16
NO_WINDOW: dict[str, object] = {"WindowCenter": None, "WindowWidth": None}
PERCENTILE = "a percentile window was used"


def window(center: object, width: object, **more: object) -> dict[str, object]:
    return {"WindowCenter": center, "WindowWidth": width, **more}


def twelve(**more: object) -> dict[str, object]:
    return {"BitsStored": 12, **more}


def lut(values: NDArray[np.integer], first: int = 0, bits: int = 12, **more: object) -> list[Dataset]:
    """A LUT of one item (PS3.3 C.11.1, C.11.2); 65536 entries are written as 0."""
    (item,) = sequence(LUTDescriptor=[len(values) % 65536, first, bits], LUTData=values.tolist(), **more)
    item["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    item["LUTData"].VR = "US"
    return [item]


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


def percentiles(values: NDArray[np.integer], inside: NDArray[np.bool_] | None = None) -> Image:
    """A window from percentile 0.5 to 99.5 of the pixels that count, found by sorting them."""
    ordered = np.sort(values[inside] if inside is not None else values.ravel()).astype(float)
    low, high = (ordered[int(np.ceil(len(ordered) * part)) - 1] for part in (0.005, 0.995))
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float32)


def framed(value: int, dtype: type[np.integer] = np.uint16) -> NDArray[np.integer]:
    """The phantom with a frame of one value, as a collimator or a stitching program leaves it."""
    made = stored().astype(dtype)
    made[:24], made[-24:], made[:, :20], made[:, -20:] = value, value, value, value
    return made


def inside() -> NDArray[np.bool_]:
    made = np.zeros((ROWS, COLUMNS), bool)
    made[24:-24, 20:-20] = True
    return made


def left_aligned() -> FileDataset:
    return xray((stored() << 4) | 5, BitsStored=12, HighBit=15)


def tall(rows: int, columns: int) -> NDArray[np.uint16]:
    return np.resize(stored(), (rows, columns)).astype(np.uint16)


def several_frames(count: int) -> FileDataset:
    made = xray(NumberOfFrames=count)
    made.PixelData = made.PixelData * count
    return made


def with_overlay(rows: int, columns: int) -> FileDataset:
    """An overlay plane of ones (PS3.3 C.9.2), maybe larger than the image."""
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
        setattr(made, f"{name}PaletteColorLookupTableData", np.arange(0, 65536, 256, np.uint16).tobytes())
    return made


def packed_12() -> FileDataset:
    pairs = stored().reshape(-1, 2).astype(np.uint32)
    triples = np.stack(
        [pairs[:, 0] & 255, (pairs[:, 0] >> 8) | ((pairs[:, 1] & 15) << 4), pairs[:, 1] >> 4], axis=1
    )
    return xray(PixelData=triples.astype(np.uint8).tobytes(), BitsAllocated=12)


SIGMOID = "1 / (1 + exp(-4 (x - c) / w))"
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
            "CR has no PresentationLUTShape; the photometric interpretation inverts alone (PS3.3 C.7.6.3.1.2)",
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
            shows=lambda: np.zeros((ROWS, COLUMNS), np.float32),
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
            "a descriptor that nobody can mean (PS3.3 C.11.2.1.1)",
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
            "a defined term of somebody else (PS3.3 C.11.2.1.3)",
            lambda: xray(VOILUTFunction="ACME"),
            "analyzed; VOILUTFunction is unknown; LINEAR was used",
        ),
        Case(
            "window width 1",
            "a step: black up to the center - 0.5, white above (PS3.3 C.11.2.1.2.1)",
            lambda: xray(**window(1500, 1)),
            shows=lambda: (stored() > 1499.5).astype(np.float32),
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
            "analyzed; all pixels have one value",
            shows=lambda: np.zeros((ROWS, COLUMNS), np.float32),
            dcmtk=None,
        ),
    ],
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
            "failed: BitsAllocated 12 with BitsStored 12; 8 or 16 bits are analyzed, with no more stored than allocated",
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
            "failed: the pixel data has 61440 bytes, the header says 30720...",
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
        Case("two samples", "SamplesPerPixel is 1 or 3", lambda: xray(SamplesPerPixel=2), "failed: ..."),
        Case(
            "palette",
            "an X-ray in false colours",
            palette,
            "failed: PALETTE COLOR; only gray, RGB and YBR images are analyzed",
        ),
    ],
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
            shows=lambda: plain()[90:91, 70:71],
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
