"""JPEG and PNG files as DICOM objects."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import DigitalXRayImageStorageForPresentation
from support import phantom

from pacs_node.dicom.wrap import wrap
from pacs_node.errors import InputError


@pytest.fixture
def grey() -> Image.Image:
    """A small picture, wider than high, all four corners different."""
    pixels = (phantom.radiograph(1, True, 120, 101) >> 4).astype(np.uint8).T
    pixels[:10, :10], pixels[-10:, -10:] = 250, 5
    return Image.fromarray(np.ascontiguousarray(pixels))


def test_png_keeps_its_grey_values(grey: Image.Image, tmp_path: Path) -> None:
    grey.save(tmp_path / "a.png")
    image = wrap(tmp_path / "a.png")
    assert image.SOPClassUID == DigitalXRayImageStorageForPresentation
    assert (image.Rows, image.Columns, image.BitsStored) == (101, 120, 8)
    assert np.array_equal(image.pixel_array, np.asarray(grey))
    assert image.LossyImageCompression == "00"


def test_exif_orientation_is_applied(grey: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = wrap(tmp_path / "a.jpg")
    assert (image.Rows, image.Columns) == (120, 101)
    upright = np.rot90(np.asarray(grey), -1).astype(float)
    assert np.abs(image.pixel_array - upright).mean() < 4
    assert image.LossyImageCompression == "01"


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    Image.new("RGB", (80, 70), (0, 255, 0)).save(tmp_path / "a.png")
    assert set(np.unique(wrap(tmp_path / "a.png").pixel_array)) == {150}


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 100 * 90, dtype=np.uint16).reshape(100, 90)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert np.array_equal(wrap(tmp_path / "a.png").pixel_array, (ramp >> 8).astype(np.uint8))


def test_uids_come_from_the_content(grey: Image.Image, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        grey.save(tmp_path / name)
    Image.fromarray(255 - np.asarray(grey)).save(tmp_path / "c.png")
    first, copy, other = (wrap(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    assert first.SOPInstanceUID == copy.SOPInstanceUID != other.SOPInstanceUID
    assert first.StudyInstanceUID == copy.StudyInstanceUID != other.StudyInstanceUID
    assert first.SOPInstanceUID.is_valid
    assert "not an original" in first.ImageComments.lower()
    assert "a.png" not in str(first), "a file's name may be a patient's"


def test_only_attributes_that_a_picture_lacks_are_missing(
    grey: Image.Image, tmp_path: Path, tool: Callable[[str], Path]
) -> None:
    grey.save(tmp_path / "a.jpg")
    wrap(tmp_path / "a.jpg").save_as(tmp_path / "a.dcm", enforce_file_format=True)
    command = [str(tool("dciodvfy")), "-new", str(tmp_path / "a.dcm")]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    errors = [line.split(" - ")[1:3] for line in output.stderr.splitlines() if line.startswith("Error")]
    assert errors == [
        ["</ImageLaterality(0020,0062)>", "Missing attribute for Type 1 Required"],
        ["</PatientOrientation(0020,0020)>", "Empty attribute (no value) for Type 1C Conditional"],
        ["</ImagerPixelSpacing(0018,1164)>", "Missing attribute for Type 1 Required"],
    ]


@pytest.mark.parametrize("content", [b"", b"GIF89a nothing", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_not_a_picture_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.png"):
        wrap(bad)


def test_truncated_and_missing_files_are_refused(grey: Image.Image, tmp_path: Path) -> None:
    grey.save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        wrap(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        wrap(tmp_path / "none.jpg")


def test_enormous_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 8000)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="9000 x 8000"):
        wrap(tmp_path / "a.png")
