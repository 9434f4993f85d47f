"""What is displayed: by hand-made values, and as dcmtk's dcm2pnm shows it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from pacs_node.analyze import decode, pixels
from pacs_node.errors import InputError
from pacs_node.records import PERCENTILES_SHOW_MORE

MakeImage = Callable[..., FileDataset]
Save = Callable[[Dataset], Path]
Tool = Callable[[str], Path]

RAMP = np.array([[0, 100, 200, 300, 400]], np.uint16)
FINE_RAMP = np.arange(0, 401, 4, dtype=np.uint16)[None]


def lut(values: list[int], first: int = 0, bits: int = 16) -> Sequence:
    """A LUT sequence of one item."""
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = values
    item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    return Sequence([item])


def gray_header(photometric: str, **attributes: object) -> Dataset:
    """The attributes of an image that `pixels.prepare` needs."""
    header = Dataset()
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, photometric
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


@pytest.fixture
def shown(make_image: MakeImage, save: Save) -> Callable[..., pixels.Prepared]:
    """The prepared image of these pixels and attributes, through a file."""

    def show(stored: NDArray[np.integer], **attributes: object) -> pixels.Prepared:
        return pixels.prepare(decode.read(save(make_image(stored, **attributes))))

    return show


Shown = Callable[..., pixels.Prepared]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # ((x - (c - 0.5)) / (w - 1) + 0.5), PS3.3 C.11.2.1.2.1
        ("LINEAR", [0, (100 - 199.5) / 200 + 0.5, (200 - 199.5) / 200 + 0.5, 1, 1]),
        ("LINEAR_EXACT", [0, (100 - 200) / 201 + 0.5, 0.5, (300 - 200) / 201 + 0.5, 1]),
        ("SIGMOID", [1 / (1 + np.exp(-4 * (x - 200) / 201)) for x in RAMP[0].astype(float)]),
    ],
)
def test_windows(function: str, expected: list[float], shown: Shown) -> None:
    display = shown(FINE_RAMP, WindowCenter="200", WindowWidth="201", VOILUTFunction=function).display
    assert display.dtype == np.float32
    np.testing.assert_allclose(display[0, ::25], expected, atol=1e-6)


def test_the_narrowest_window_is_a_step() -> None:
    assert pixels.windowed(RAMP[0].astype(float), 200, 1).tolist() == [0, 0, 1, 1, 1]


def test_the_first_of_several_windows_counts(shown: Shown) -> None:
    several = shown(RAMP, WindowCenter=["100", "300"], WindowWidth=["101", "7"]).display
    np.testing.assert_array_equal(several, shown(RAMP, WindowCenter="100", WindowWidth="101").display)


def test_rescale_comes_before_the_window(shown: Shown) -> None:
    rescaled = shown(
        RAMP.astype(np.int16) - 200,
        RescaleSlope="2",
        RescaleIntercept="-10",
        WindowCenter="-10.5",
        WindowWidth="801",
        VOILUTFunction="LINEAR_EXACT",
    )
    expected = [(2 * (x - 200) - 10 + 10.5) / 801 + 0.5 for x in RAMP[0].astype(float)]
    np.testing.assert_allclose(rescaled.display[0], expected, atol=1e-6)


def test_modality_lut_then_voi_lut(shown: Shown) -> None:
    stored = np.array([[0, 1, 2, 3]], np.uint8)
    display = shown(
        stored,
        ModalityLUTSequence=lut([3, 2, 1, 0], bits=8),
        VOILUTSequence=lut([0, 255, 510, 1023], bits=10),
    ).display
    np.testing.assert_allclose(display[0], np.array([1023, 510, 255, 0]) / 1023, atol=1e-6)


def test_a_voi_lut_precedes_a_window(shown: Shown) -> None:
    display = shown(
        np.array([[0, 1]], np.uint8),
        VOILUTSequence=lut([255, 0], bits=8),
        WindowCenter="0",
        WindowWidth="1",
    ).display
    assert display.tolist() == [[1, 0]]


def test_a_broken_lut_says_so(shown: Shown) -> None:
    item = Dataset()
    item.LUTExplanation = "nothing else"
    with pytest.raises(InputError, match="LUT of the image cannot be read"):
        shown(RAMP, VOILUTSequence=Sequence([item]))


@pytest.mark.parametrize(
    ("photometric", "shape", "inverse", "noted"),
    [
        ("MONOCHROME2", None, False, False),
        ("MONOCHROME1", None, True, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", "IDENTITY", False, True),
    ],
)
def test_one_inversion(photometric: str, shape: str | None, inverse: bool, noted: bool, shown: Shown) -> None:
    attributes = {"PresentationLUTShape": shape} if shape else {}
    prepared = shown(
        RAMP, PhotometricInterpretation=photometric, WindowCenter="200.5", WindowWidth="401", **attributes
    )
    first, last = prepared.display[0, 0], prepared.display[0, -1]
    assert bool(first > last) is inverse
    assert (prepared.notes != ()) is noted


def test_without_a_window_the_extremes_and_the_padding_are_left_out(shown: Shown) -> None:
    stored = np.tile(np.arange(1000, 2000, dtype=np.uint16), (10, 1))
    stored[0, :20] = 60000
    plain = shown(stored).display
    assert plain[1, 10] == pytest.approx((1010 - 1005) / (1998 - 1005), abs=0.003)
    padded = np.vstack([stored, np.full((40, 1000), 0, np.uint16), np.full((40, 1000), 5, np.uint16)])
    ranged = shown(padded, PixelPaddingValue=0, PixelPaddingRangeLimit=5).display
    np.testing.assert_array_equal(ranged[:10], plain)
    assert shown(padded).display[1, 10] != pytest.approx(plain[1, 10], abs=0.01)


def test_a_constant_image_is_blank(shown: Shown) -> None:
    prepared = shown(np.full((4, 4), 7, np.uint8))
    assert prepared.is_blank
    assert not prepared.display.any()


@settings(max_examples=150, deadline=None)
@example(11, 11, 8, False, 0.125, 1, 0.0, None, "MONOCHROME1", "1")  # rounding, spread by the percentiles
@given(
    rows=st.integers(1, 700),
    columns=st.integers(1, 700),
    bits=st.integers(8, 16),
    signed=st.booleans(),
    level=st.floats(0, 1),
    noise=st.sampled_from([0, 1]),
    frame=st.sampled_from([None, 0.0, 1.0]),
    window=st.sampled_from([None, (0.5, 1.0), (-4.0, 0.5), (4.0, 0.5), (None, None)]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    slope=st.sampled_from(["1", "0", "-0.37"]),
)
def test_pixels_without_contrast_are_blank_however_they_are_shown(
    rows: int,
    columns: int,
    bits: int,
    signed: bool,
    level: float,
    noise: int,
    frame: float | None,
    window: tuple[float | None, float | None] | None,
    photometric: str,
    slope: str,
) -> None:
    """One value, give or take one by rounding, maybe in a black or white frame; `window` is of the range."""
    lowest = -(1 << bits - 1) if signed else 0
    top = (1 << bits) - 1
    value = round(level * top)
    errors = np.random.default_rng(rows).integers(-noise, noise, (rows, columns), endpoint=True)
    values = np.clip(value + errors, 0, top)
    if frame is not None:
        edge = min(rows, columns) // 9
        values[:edge] = values[rows - edge :] = round(frame * top)
    size = bits // 9 + 1
    stored = (values + lowest).astype(f"{'i' if signed else 'u'}{size}")
    header = gray_header(photometric, RescaleSlope=slope, RescaleIntercept="0")
    if window is not None:
        center, width = window
        # Without numbers: as narrow as it can be, and right where the values are.
        header.WindowCenter = f"{(value if center is None else center * top) + lowest:.0f}"
        header.WindowWidth = f"{2 if width is None else width * top:.0f}"
    prepared = pixels.prepare(decode.Decoded(header, stored, ""))
    assert prepared.is_blank
    assert PERCENTILES_SHOW_MORE not in prepared.notes


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(9, 700),
    columns=st.integers(9, 700),
    bits=st.integers(8, 16),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    hidden=st.sampled_from(
        [
            {"WindowCenter": "-5", "WindowWidth": "1"},
            {"WindowCenter": "0", "WindowWidth": "1"},
            {"WindowCenter": "99999", "WindowWidth": "100"},
            {"WindowCenter": "-9000", "WindowWidth": "100", "VOILUTFunction": "SIGMOID"},
            {"RescaleSlope": "0", "RescaleIntercept": "7"},
            {"RescaleSlope": "0", "RescaleIntercept": "7", "WindowCenter": "7", "WindowWidth": "1"},
        ]
    ),
)
def test_what_a_window_or_rescale_hides_is_shown_by_percentiles(
    rows: int, columns: int, bits: int, photometric: str, hidden: dict[str, str]
) -> None:
    y, x = np.mgrid[:rows, :columns]
    values = (x / columns + y / rows) / 2 * ((1 << bits) - 1)
    stored = values.astype(np.uint8 if bits == 8 else np.uint16)
    prepared = pixels.prepare(decode.Decoded(gray_header(photometric, **hidden), stored, ""))
    plain = pixels.prepare(decode.Decoded(gray_header(photometric), stored, ""))
    assert not prepared.is_blank
    assert prepared.notes == (PERCENTILES_SHOW_MORE,)
    np.testing.assert_array_equal(prepared.display, plain.display)
    assert plain.notes == ()


def test_a_window_that_hides_contrast_that_a_negative_slope_inverts_leaves_it_inverted() -> None:
    stored = np.tile(np.arange(200, dtype=np.uint8), (50, 1))
    header = gray_header("MONOCHROME2", RescaleSlope="-1", WindowCenter="500", WindowWidth="9")
    display = pixels.prepare(decode.Decoded(header, stored, "")).display
    assert display[0, 0] == 1
    assert display[0, -1] == 0


def test_a_padding_value_that_cannot_be_read_is_refused_where_the_window_shows_nothing() -> None:
    header = gray_header("MONOCHROME2", WindowCenter="5000", WindowWidth="9")
    header.add_new("PixelPaddingValue", "LO", "none")
    with pytest.raises(InputError, match="cannot be read"):
        pixels.prepare(decode.Decoded(header, np.tile(np.arange(200, dtype=np.uint8), (50, 1)), ""))


def test_a_rescale_beyond_all_numbers_leaves_the_stored_values() -> None:
    stored = np.tile(np.arange(-30000, 30000, 300, dtype=np.int16), (50, 1))
    header = gray_header("MONOCHROME2", RescaleSlope="5e303")
    prepared = pixels.prepare(decode.Decoded(header, stored, ""))
    assert prepared.notes == (PERCENTILES_SHOW_MORE,)
    assert 0 <= prepared.display.min() < prepared.display.mean() < prepared.display.max() <= 1


def test_colour_that_uses_next_to_nothing_of_its_range_is_shown_by_percentiles() -> None:
    header = gray_header("RGB", SamplesPerPixel=3, BitsStored=16)
    stored = np.tile(np.arange(200, dtype=np.uint16), (50, 1))
    prepared = pixels.prepare(decode.Decoded(header, stored, ""))
    assert prepared.notes == (PERCENTILES_SHOW_MORE,)
    assert prepared.display.max() == 1


@pytest.mark.parametrize("area", [1, 10])
def test_no_xray_of_a_limb_is_blank(area: int, data_dir: Path) -> None:
    """Nor is one that lies on a plate of ten times its area."""
    paths = sorted((data_dir / "fracatlas" / "images").iterdir())[::11]
    assert len(paths) > 300
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        rows, columns = image.shape
        edge = round((area**0.5 - 1) / 2 * rows), round((area**0.5 - 1) / 2 * columns)
        plate = np.pad(image.astype(np.uint8), [(edge[0], edge[0]), (edge[1], edge[1])])
        for window in ({}, {"WindowCenter": "128", "WindowWidth": "256"}):
            header = gray_header("MONOCHROME2", **window)
            prepared = pixels.prepare(decode.Decoded(header, plate, ""))
            assert not prepared.is_blank, path.name
            assert area > 1 or not prepared.notes, path.name


@pytest.mark.parametrize(
    ("attributes", "note"),
    [
        ({"WindowCenter": "200"}, "WindowCenter or WindowWidth is missing"),
        ({"WindowCenter": "200", "WindowWidth": "0"}, "WindowWidth 0 is not valid with LINEAR"),
        (
            {"WindowCenter": "200", "WindowWidth": "400", "VOILUTFunction": "CUBIC"},
            "VOILUTFunction is unknown",
        ),
        ({"PixelAspectRatio": [2, 1]}, "not square"),
    ],
)
def test_oddities_are_noted(attributes: dict[str, object], note: str, shown: Shown) -> None:
    (found,) = shown(RAMP, **attributes).notes
    assert note in found


@pytest.mark.parametrize(
    "attributes",
    [{"RescaleSlope": "NaN", "RescaleIntercept": "0"}, {"WindowCenter": "NaN", "WindowWidth": "9"}],
    ids=["rescale", "window"],
)
def test_values_that_are_no_numbers_are_refused(attributes: dict[str, str], shown: Shown) -> None:
    with pytest.raises(InputError, match="not numbers"):
        shown(RAMP, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
        {"RescaleSlope": "0.5", "RescaleIntercept": "-100"},
    ],
    ids=["plain", "MONOCHROME1", "INVERSE", "INVERSE 2", "IDENTITY", "rescale"],
)
def test_dcm2pnm_shows_the_same(
    attributes: dict[str, object], make_image: MakeImage, save: Save, tool: Tool, tmp_path: Path
) -> None:
    y, x = np.mgrid[:64, :64]
    stored = (x * 40 + y * 20).astype(np.uint16)
    path = save(make_image(stored, BitsStored=12, WindowCenter="1500", WindowWidth="2200", **attributes))
    assert_as_dcm2pnm(path, tool, tmp_path, "+Wi", "1")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RG1_J2KI.dcm", ("+Wi", "1")),
        ("RG2_JLSL.dcm", ("+Wi", "1")),
        ("RG3_J2KR.dcm", ("+Wi", "1")),
        ("dx_image.dcm", ("+Wi", "1")),
        ("OutOfBoundsOverlay.dcm", ("+Wi", "1")),
        ("vlut_04.dcm", ("+Wl", "1")),
    ],
)
def test_dcm2pnm_shows_the_same_of_real_files(
    name: str, options: tuple[str, ...], data_dir: Path, tool: Tool, save: Save, tmp_path: Path
) -> None:
    # dcm2pnm reads no JPEG 2000: it is given the pixels that we decoded.
    decoded = decode.read(data_dir / "dicom" / name)
    plain = decoded.header
    plain.PixelData = decoded.pixels.tobytes()
    plain.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain["PixelData"].VR = "OW"
    for overlay in [element.tag for element in plain if element.tag.group & 0xFF00 == 0x6000]:
        del plain[overlay]
    assert_as_dcm2pnm(save(plain), tool, tmp_path, *options)


def assert_as_dcm2pnm(path: Path, tool: Tool, folder: Path, *options: str) -> None:
    """Our display image is dcm2pnm's within two gray levels of 255."""
    subprocess.run([tool("dcm2pnm"), *options, "+opb", path, folder / "out.pgm"], check=True)
    expected = cv2.imread(str(folder / "out.pgm"), cv2.IMREAD_GRAYSCALE)
    assert expected is not None
    display = pixels.prepare(decode.read(path)).display
    assert np.abs(display * 255 - expected).max() <= 2


@pytest.mark.parametrize("shape", [(700, 300), (300, 700), (90, 60), (123, 457), (256, 256)])
@pytest.mark.parametrize("at", [(0.2, 0.3), (0.8, 0.6)])
def test_a_point_keeps_its_place_both_ways(shape: tuple[int, int], at: tuple[float, float]) -> None:
    rows, columns = shape
    point = round(at[0] * columns), round(at[1] * rows)
    y, x = np.mgrid[:rows, :columns] + 0.5
    spot = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * (max(shape) / 40) ** 2))
    square, placement = pixels.letterbox(spot.astype(np.float32), 256, (0.0, 100.0))
    v, u = np.mgrid[:256, :256] + 0.5
    found = float((square * u).sum() / square.sum()), float((square * v).sum() / square.sum())
    assert found == pytest.approx(placement.to_input(point), abs=0.02)
    assert placement.to_source(placement.to_input(point)) == pytest.approx(point)
    assert placement.to_source(found) == pytest.approx(point, abs=0.02 * max(shape) / 256 + 0.01)


def test_letterbox_fills_with_black_and_keeps_the_aspect() -> None:
    image = np.linspace(0.2, 0.6, 400 * 200, dtype=np.float32).reshape(400, 200)
    square, placement = pixels.letterbox(image, 100, (0.0, 100.0))
    assert placement == pixels.Placement(scale=(0.25, 0.25), offset=(25.0, 0.0))
    assert not square[:, :25].any()
    assert not square[:, 75:].any()
    assert square.min() == 0
    assert square.max() == 1


def test_the_windows_width_does_not_change_the_input(shown: Shown) -> None:
    y, x = np.mgrid[:200, :150]
    stored = (1000 + 300 * np.sin(x / 30) + 200 * np.cos(y / 20)).astype(np.uint16)
    inputs = [
        pixels.letterbox(shown(stored, **window).display, 128, (1.0, 99.0))[0]
        for window in (
            {},
            {"WindowCenter": "1000", "WindowWidth": "1200"},
            {"WindowCenter": "1500", "WindowWidth": "4000"},
        )
    ]
    assert np.abs(inputs[1] - inputs[2]).max() < 0.001
    assert np.abs(inputs[0] - inputs[1]).max() < 0.03
