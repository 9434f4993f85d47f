"""Phantoms: seeded, plausible, and valid DICOM; those of the package are what the generator drew."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.processing import apply_voi_lut
from support import phantom
from support.phantom import FIELD_MM, View

from pacs_node.dicom import phantom as shipped
from pacs_node.dicom.header import Kind, Photometric, Side, StudyHeader, stamp

ROWS, COLUMNS = 512, 410


def row(image: NDArray[np.uint16], millimetres: float) -> NDArray[np.float64]:
    """The mean of three rows at a height of the field."""
    middle = int(millimetres / FIELD_MM * image.shape[0])
    return np.asarray(image[middle - 1 : middle + 2].mean(axis=0))


def test_the_same_arguments_give_the_same_pixels_and_each_seed_another_wrist() -> None:
    first = phantom.radiograph(1, True, ROWS, COLUMNS)
    assert first.dtype == np.uint16
    assert first.shape == (ROWS, COLUMNS)
    assert first.max() <= phantom.MAXIMUM
    assert np.array_equal(first, phantom.radiograph(1, True, ROWS, COLUMNS))
    assert not np.array_equal(first, phantom.radiograph(2, True, ROWS, COLUMNS))


@pytest.mark.parametrize("view", ["PA", "LL"])
@pytest.mark.parametrize("seed", range(4))
def test_a_fracture_changes_the_bone_at_the_distal_radius_only(seed: int, view: View) -> None:
    whole = phantom.radiograph(seed, False, ROWS, COLUMNS, view=view).astype(np.float64)
    broken = phantom.radiograph(seed, True, ROWS, COLUMNS, view=view).astype(np.float64)
    changed = np.abs(broken - whole) > 300
    rows = np.flatnonzero(changed.any(axis=1)) / ROWS * FIELD_MM
    assert changed.sum() > 100
    assert rows.min() > 75, "the hand is not broken"
    assert rows.max() < 150, "nor is the shaft"


def test_cortices_are_brighter_than_marrow() -> None:
    shaft = row(phantom.radiograph(3, False, ROWS, COLUMNS), 165)
    bone = np.flatnonzero(shaft > 0.85 * shaft.max())
    runs = [run for run in np.split(bone, np.flatnonzero(np.diff(bone) > 1) + 1) if run.size > 15]
    assert len(runs) == 2, "radius and ulna"
    for run in runs:
        left, marrow, right = (shaft[part] for part in np.array_split(run, 3))
        assert marrow.mean() < min(left.max(), right.max()) - 60


def test_left_is_mirrored_and_marked() -> None:
    right = phantom.radiograph(5, False, ROWS, COLUMNS)
    left = phantom.radiograph(5, False, ROWS, COLUMNS, laterality="L")
    bones = slice(int(0.4 * ROWS), int(0.9 * ROWS))
    inner = slice(60, COLUMNS - 60)
    mirrored = left[bones, ::-1][:, inner].astype(float)
    assert np.abs(mirrored - right[bones, inner]).mean() < 40
    marker = 3500
    assert (right[:, COLUMNS // 2 :] > marker).any()
    assert (left[:, : COLUMNS // 2] > marker).any()


def test_monochrome1_looks_the_same_through_its_window() -> None:
    light = phantom.dataset(6, rows=ROWS, columns=COLUMNS)
    dark = phantom.dataset(6, rows=ROWS, columns=COLUMNS, photometric="MONOCHROME1")
    assert dark.PresentationLUTShape == "INVERSE"
    shown = apply_voi_lut(light.pixel_array, light).astype(float)
    inverted = phantom.MAXIMUM - apply_voi_lut(dark.pixel_array, dark).astype(float)
    assert np.abs(shown - inverted).max() < 4


@pytest.mark.parametrize("kind", ["DX", "CR"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_objects_are_valid(
    kind: Kind, photometric: Photometric, tmp_path: Path, tool: Callable[[str], Path]
) -> None:
    files = []
    for side in ("L", "R"):
        study = phantom.two_views(
            7, fractured=True, rows=256, columns=205, laterality=side, kind=kind, photometric=photometric
        )
        for image in study:
            files.append(tmp_path / f"{image.SOPInstanceUID}.dcm")
            image.save_as(files[-1], enforce_file_format=True)
    assert len(set(files)) == 4
    for file in files:
        output = subprocess.run(
            [tool("dciodvfy"), "-new", file], capture_output=True, text=True, timeout=60, check=True
        )
        assert output.stderr.split() == ["DXImageForPresentation" if kind == "DX" else "CRImage"]
    for pair in (files[:2], files[2:]):
        output = subprocess.run(
            [tool("dcentvfy"), *pair], capture_output=True, text=True, timeout=60, check=True
        )
        assert (output.stdout + output.stderr).strip() == ""


def test_writing_twice_gives_the_same_bytes() -> None:
    def written() -> bytes:
        buffer = BytesIO()
        image = phantom.dataset(8, rows=256, columns=205)
        image.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    assert written() == written()
    assert dcmread(BytesIO(written())).pixel_array.shape == (256, 205)


def test_stamp_moves_an_image_to_another_study() -> None:
    image = phantom.dataset(9, rows=256, columns=205)
    before = image.SOPInstanceUID
    stamp(image, StudyHeader(study_instance_uid="1.2.3", patient_id="X"))
    assert (image.StudyInstanceUID, image.PatientID) == ("1.2.3", "X")
    assert image.StudyDate == ""
    assert image.SOPInstanceUID == before


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="64 x 64"):
        phantom.radiograph(1, False, 32, 512)


@pytest.mark.parametrize(("seed", "fractured", "side"), [(23, True, "R"), (3, False, "L")])
def test_the_files_of_the_package_show_what_the_generator_drew(
    seed: int, fractured: bool, side: Side
) -> None:
    images = shipped.fractured_right() if fractured else shipped.sound_left()
    for view, image in zip(shipped.VIEWS, images, strict=True):
        drawn = phantom.radiograph(seed, fractured, 2048, 1638, view=view, laterality=side).astype(int)
        pixels = image.pixel_array.astype(int)
        if image.PhotometricInterpretation == "MONOCHROME1":
            pixels = phantom.MAXIMUM - pixels
        assert np.abs(pixels - drawn).mean() < 25, "less than the noise"
        assert image.ViewPosition == view
        assert (image.get("ImageLaterality") or image.Laterality) == side


def test_a_disposable_study_is_new_and_named_as_a_test() -> None:
    first, second = shipped.disposable_study(), shipped.disposable_study()
    assert first[0].StudyInstanceUID == first[1].StudyInstanceUID != second[0].StudyInstanceUID
    assert not {image.SOPInstanceUID for image in first} & {image.SOPInstanceUID for image in second}
    assert "TEST" in first[0].PatientID
    assert "TEST" in str(first[0].PatientName)
    assert "TEST" in first[0].StudyDescription
