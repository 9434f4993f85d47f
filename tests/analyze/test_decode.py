"""Every usual transfer syntax decodes to the same values; what cannot be used says why."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import JPEG2000Lossless
from support.fuzz.fuzz_bench import memory_mb

from pacs_node.analyze import decode
from pacs_node.errors import DecodeError, InputError

MakeImage = Callable[..., FileDataset]
Save = Callable[[Dataset], Path]
Tool = Callable[[str], Path]

LOSSLESS = {
    "implicit": ("dcmconv", "+ti"),
    "big endian": ("dcmconv", "+tb"),
    "deflated": ("dcmconv", "+td"),
    "JPEG lossless SV1": ("dcmcjpeg", "+e1"),
    "JPEG lossless": ("dcmcjpeg", "+el"),
    "JPEG-LS": ("dcmcjpls", "+el"),
    "RLE": ("dcmcrle",),
}


@pytest.fixture
def twelve_bits() -> NDArray[np.uint16]:
    """A smooth 12-bit image with some grain."""
    y, x = np.mgrid[:96, :80]
    smooth = 2000 + 1500 * np.sin(x / 17) * np.cos(y / 23)
    return np.asarray(smooth + np.random.default_rng(1).integers(0, 60, smooth.shape), np.uint16)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_the_same_values_and_key(
    syntax: str,
    twelve_bits: NDArray[np.uint16],
    make_image: MakeImage,
    save: Save,
    tool: Tool,
    tmp_path: Path,
) -> None:
    source = save(make_image(twelve_bits, BitsStored=12, WindowCenter="2000", WindowWidth="4000.0"))
    program, *options = LOSSLESS[syntax]
    subprocess.run([tool(program), *options, source, tmp_path / "out.dcm"], check=True)
    assert (
        dcmread(tmp_path / "out.dcm").file_meta.TransferSyntaxUID
        != dcmread(source).file_meta.TransferSyntaxUID
    )
    decoded = decode.read(tmp_path / "out.dcm")
    np.testing.assert_array_equal(decoded.pixels, twelve_bits)
    assert decoded.pixels.dtype == np.uint16
    assert "PixelData" not in decoded.header
    assert decoded.header.PatientID == "1"
    assert decoded.content_key == decode.read(source).content_key


def test_jpeg_2000_of_signed_values(make_image: MakeImage, save: Save) -> None:
    signed = np.random.default_rng(2).integers(-900, 900, (80, 70)).astype(np.int16)
    image = make_image(signed, BitsStored=12)
    key = decode.read(save(image)).content_key
    image.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    decoded = decode.read(save(image))
    np.testing.assert_array_equal(decoded.pixels, signed)
    assert decoded.pixels.dtype == np.int16
    assert decoded.content_key == key


def test_jpeg_ls_near_lossless_comes_near(
    twelve_bits: NDArray[np.uint16], make_image: MakeImage, save: Save, tool: Tool, tmp_path: Path
) -> None:
    source = save(make_image(twelve_bits, BitsStored=12))
    subprocess.run([tool("dcmcjpls"), "+en", "+md", "2", source, tmp_path / "out.dcm"], check=True)
    decoded = decode.read(tmp_path / "out.dcm")
    assert 0 < np.abs(decoded.pixels.astype(int) - twelve_bits).max() <= 2
    assert decoded.content_key != decode.read(source).content_key


def test_jpeg_extended_of_12_bits_decodes_as_dcmtk_does(
    twelve_bits: NDArray[np.uint16], make_image: MakeImage, save: Save, tool: Tool, tmp_path: Path
) -> None:
    source = save(make_image(twelve_bits, BitsStored=12))
    subprocess.run([tool("dcmcjpeg"), "+ee", source, tmp_path / "out.dcm"], check=True)
    subprocess.run([tool("dcmdjpeg"), tmp_path / "out.dcm", tmp_path / "plain.dcm"], check=True)
    expected = decode.read(tmp_path / "plain.dcm").pixels
    np.testing.assert_array_equal(decode.read(tmp_path / "out.dcm").pixels, expected)
    # dcmcjpeg moves the smallest value to 0.
    assert np.abs(expected.astype(int) + twelve_bits.min() - twelve_bits).max() <= 100


def test_jpeg_baseline_of_8_bits(make_image: MakeImage, save: Save, tool: Tool, tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    gray = (x + y).astype(np.uint8)
    subprocess.run([tool("dcmcjpeg"), "+eb", save(make_image(gray)), tmp_path / "out.dcm"], check=True)
    assert np.abs(decode.read(tmp_path / "out.dcm").pixels.astype(int) - gray).max() <= 6


@pytest.mark.parametrize("encode", [(), ("dcmcjpeg", "+eb")], ids=["RGB", "YBR JPEG"])
def test_colour_becomes_luminance(
    encode: tuple[str, ...], make_image: MakeImage, save: Save, tool: Tool, tmp_path: Path
) -> None:
    path = save(make_image(np.full((32, 32, 3), (200, 100, 50), np.uint8)))
    if encode:
        subprocess.run([tool(encode[0]), *encode[1:], path, tmp_path / "out.dcm"], check=True)
        path = tmp_path / "out.dcm"
        assert dcmread(path).PhotometricInterpretation.startswith("YBR")
    decoded = decode.read(path)
    assert decoded.pixels.shape == (32, 32)
    # Rec. 601: 0.299 R + 0.587 G + 0.114 B
    assert np.abs(decoded.pixels.astype(float) - 124.2).max() <= 3
    assert "luminance" in decoded.notes[0]


@pytest.mark.parametrize(
    ("stored", "attributes", "expected"),
    [
        ([0xF123, 0x0FFF], {"BitsStored": 12}, [0x123, 0xFFF]),
        ([0x0FFF, 0xF001], {"BitsStored": 12, "PixelRepresentation": 1}, [-1, 1]),
    ],
    ids=["overlay in high bits", "signed"],
)
def test_only_stored_bits_count(
    stored: list[int],
    attributes: dict[str, int],
    expected: list[int],
    make_image: MakeImage,
    save: Save,
) -> None:
    image = make_image(np.array([stored], np.uint16), **attributes)
    assert decode.read(save(image)).pixels.tolist() == [expected]


def test_an_odd_high_bit_is_noted(make_image: MakeImage, save: Save) -> None:
    image = make_image(np.array([[0x123]], np.uint16), BitsStored=12, HighBit=1)
    assert decode.read(save(image)).notes == ("HighBit is not BitsStored - 1 = 11; it was taken as that",)


@pytest.mark.parametrize(
    ("keyword", "value", "same"),
    [
        ("PatientName", "Other^Name", True),
        ("WindowCenter", ["100", "7"], False),
        ("PhotometricInterpretation", "MONOCHROME1", False),
        ("PresentationLUTShape", "INVERSE", False),
        ("PixelAspectRatio", [1, 2], False),
        ("WindowWidth", "300", True),
    ],
)
def test_identity_of_content(
    keyword: str, value: object, same: bool, make_image: MakeImage, save: Save
) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    window = {"WindowCenter": ["100", "50"], "WindowWidth": "300.0"}
    key = decode.read(save(make_image(pixels, **window))).content_key
    assert (decode.read(save(make_image(pixels, **{**window, keyword: value}))).content_key == key) is same
    assert decode.read(save(make_image(pixels + 1, **window))).content_key != key


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"PixelData": None}, DecodeError, "no pixel data"),
        ({"PixelData": b""}, DecodeError, "empty"),
        ({"PixelData": b"\0" * 100}, DecodeError, "100 bytes, the header says 512"),
        ({"Rows": 60000, "Columns": 60000}, DecodeError, "60000 rows x 60000 columns of 16 bits"),
        ({"Rows": 0}, DecodeError, "0 rows"),
        ({"Rows": None}, DecodeError, "Rows"),
        ({"SamplesPerPixel": 3, "PixelRepresentation": 1}, InputError, "signed"),
        ({"NumberOfFrames": 3}, InputError, "3 frames"),
        ({"BitsAllocated": 32}, InputError, "BitsAllocated 32"),
        ({"BitsStored": 17}, InputError, "BitsStored 17"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, InputError, "PALETTE COLOR"),
        ({"PhotometricInterpretation": None}, DecodeError, "PhotometricInterpretation"),
    ],
)
def test_what_cannot_be_used_says_why(
    attributes: dict[str, object], error: type[InputError], message: str, make_image: MakeImage, save: Save
) -> None:
    with pytest.raises(error, match=message) as raised:
        decode.read(save(make_image(np.zeros((16, 16), np.uint16), **attributes)))
    assert type(raised.value) is error
    assert "Test" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"not DICOM at all", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\xff" * 50]
)
def test_files_that_are_no_dicom(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DecodeError):
        decode.read(tmp_path / "file")


def test_a_missing_file_is_not_the_images_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode.read(tmp_path / "absent.dcm")


@pytest.mark.parametrize("syntax", ["plain", "JPEG lossless SV1", "JPEG-LS", "RLE", "deflated", "JPEG 2000"])
def test_damage_never_escapes_as_another_error(
    syntax: str,
    twelve_bits: NDArray[np.uint16],
    make_image: MakeImage,
    save: Save,
    tool: Tool,
    tmp_path: Path,
) -> None:
    image = make_image(twelve_bits[:32, :32].copy(), BitsStored=12)
    if syntax == "JPEG 2000":
        image.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    path = save(image)
    if syntax in LOSSLESS:
        program, *options = LOSSLESS[syntax]
        subprocess.run([tool(program), *options, path, tmp_path / "out.dcm"], check=True)
        path = tmp_path / "out.dcm"
    good = path.read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(40):
        bad = bytearray(good)
        for position in rng.integers(132, len(good), 6):
            bad[position] = rng.integers(256)
        (tmp_path / "bad").write_bytes(bad[: rng.integers(len(bad) // 2, len(bad) + 1)])
        try:
            decode.read(tmp_path / "bad")
        except InputError:
            refused += 1
    assert refused > 5


@pytest.mark.parametrize("syntax", ["JPEG lossless SV1", "JPEG-LS"])
def test_an_image_that_cannot_be_decoded_leaves_no_memory_behind(
    syntax: str,
    make_image: MakeImage,
    save: Save,
    tool: Tool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # A log record that is kept keeps the frames of its traceback, and so the image.
    caplog.set_level(logging.CRITICAL, "pydicom")
    noise = np.random.default_rng(4).integers(0, 4096, (1500, 1500)).astype(np.uint16)
    program, *options = LOSSLESS[syntax]
    source = save(make_image(noise, BitsStored=12))
    subprocess.run([tool(program), *options, source, tmp_path / "out.dcm"], check=True)
    bad = bytearray((tmp_path / "out.dcm").read_bytes())
    # A marker that may not stand there, late enough that most of the image has been decoded.
    at = len(bad) * 9 // 10
    bad[at : at + 2] = b"\xff\xf9"
    (tmp_path / "bad").write_bytes(bad)
    for count in range(25):
        with pytest.raises(DecodeError, match="cannot be decoded"):
            decode.read(tmp_path / "bad")
        if count == 4:
            before = memory_mb("VmRSS")
    assert memory_mb("VmRSS") - before < 5 * noise.nbytes / 1e6


REAL = {
    "CR-ModalitySequenceLUT.dcm": (1576, 1976),
    "NM_Kakadu44_SOTmarkerincons.dcm": (2500, 2048),
    "OutOfBoundsOverlay.dcm": (788, 1318),
    "RG1_J2KI.dcm": (1955, 1841),
    "RG2_JLSL.dcm": (2140, 1760),
    "RG2_JLSN.dcm": (2140, 1760),
    "RG2_JPLL.dcm": (2140, 1760),
    "RG2_JPLY.dcm": (2140, 1760),
    "RG2_JPLY_fixed.dcm": (2140, 1760),
    "RG3_J2KI.dcm": (1760, 1760),
    "RG3_J2KR.dcm": (1760, 1760),
    "bad_sequence.dcm": (512, 512),
    "dx_image.dcm": (169, 211),
    "mlut_18.dcm": (512, 512),
    "vlut_04.dcm": (512, 512),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_decode(name: str, data_dir: Path) -> None:
    decoded = decode.read(data_dir / "dicom" / name)
    assert decoded.pixels.shape == REAL[name]
    assert decoded.pixels.max() > decoded.pixels.min()


def test_real_files_that_are_one_image_have_one_key(data_dir: Path) -> None:
    lossless = {decode.read(data_dir / "dicom" / f"RG2_{kind}.dcm").content_key for kind in ("JLSL", "JPLL")}
    assert len(lossless) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emri_small_jpeg_2k_lossless_too_short.dcm", "pixel data"),
        ("liver_deflate.dcm", "3 frames"),
        ("liver_expb.dcm", "3 frames"),
    ],
)
def test_real_files_that_cannot_be_used(name: str, message: str, data_dir: Path) -> None:
    with pytest.raises(InputError, match=message):
        decode.read(data_dir / "dicom" / name)
