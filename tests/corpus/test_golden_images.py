"""The pixel chain compared with an independent one, dcmtk's rendering of the first window.

Percentile windows, which have no such oracle, are tested by their properties.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import support.odd_inputs.table as table
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from support.odd_inputs.corpus import ROWS, Case, stored, xray
from support.odd_inputs.grey import NO_WINDOW, percentiles
from support.odd_inputs.pipeline_run import run

from pacs_node.analyze import decode, pixels

TOLERANCE = 1.01
"""Gray levels of 255 by which a pixel may differ from dcmtk's: both round."""
LOSSY = 2.01
"""The same for JPEG with loss, where two decoders round before the window, too."""
CASES = {
    name: case
    for name, case in table.cases().items()
    if case.dcmtk is not None and case.shows is not None and case.does[:8] == "analyzed"
}


def dcmtk(
    path: Path, options: tuple[str, ...], tool: Callable[[str], Path], folder: Path
) -> NDArray[np.uint8]:
    """The rendering by dcm2pnm, or by its variants for JPEG and JPEG-LS: gray or BGR, 8 bits."""
    syntax = dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
    program = "dcml2pnm" if "JPEG-LS" in syntax else "dcmj2pnm" if "JPEG" in syntax else "dcm2pnm"
    out = folder / "out.pnm"
    subprocess.run([tool(program), *options, *(["+opb"] if options else ["+op"]), path, out], check=True)
    return np.asarray(cv2.imread(str(out), cv2.IMREAD_UNCHANGED), np.uint8)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "60 megapixels" else name for name in CASES],
)
def test_the_rendering_equals_dcmtks(name: str, tool: Callable[[str], Path], tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "image.dcm"
    path.write_bytes(case.contents()[0])
    seen = dcmtk(path, case.dcmtk or (), tool, tmp_path).astype(float)
    if seen.ndim == 3:
        seen = seen @ [0.114, 0.587, 0.299]  # BGR, Rec. 601
    display = pixels.prepare(decode.read(path)).display
    assert np.abs(display * 255 - seen).max() <= (LOSSY if "JPEG" in name else TOLERANCE)


def shown(values: NDArray[np.integer], folder: Path, **attributes: object) -> NDArray[np.float32]:
    case = Case("", "", lambda: xray(values, NO_WINDOW, BitsStored=12, **attributes))
    (image,) = run(case, folder).shown
    return image


def test_a_percentile_window_leaves_out_one_pixel_in_a_hundred(tmp_path: Path) -> None:
    values = np.random.default_rng(5).permutation(4096).reshape(64, 64).astype(np.uint16)
    image = shown(values, tmp_path)
    # The two values at the ends of the window are black and white, too.
    assert (image == 0).sum() == 21
    assert (image == 1).sum() == 4096 - np.ceil(4096 * 0.995) + 1


def test_a_percentile_window_keeps_the_order_of_values(tmp_path: Path) -> None:
    image = shown(stored(), tmp_path)
    order = np.argsort(stored(), axis=None)
    assert (np.diff(image.ravel()[order]) >= 0).all()


@pytest.mark.parametrize(("factor", "offset"), [(1, 300), (1, 0), (0.5, 0)])
def test_a_percentile_window_does_not_depend_on_exposure(factor: float, offset: int, tmp_path: Path) -> None:
    values = (stored() // 4 * 2).astype(np.uint16)
    other = (values * factor + offset).astype(np.uint16)
    np.testing.assert_allclose(shown(other, tmp_path), shown(values, tmp_path), atol=1e-5)


@pytest.mark.parametrize("frame", [4, 16, 60])
def test_a_percentile_window_does_not_depend_on_the_amount_of_padding(frame: int, tmp_path: Path) -> None:
    values = np.pad(np.minimum(stored(), 4000), frame, constant_values=4095)
    image = shown(values, tmp_path, PixelPaddingValue=4095)
    np.testing.assert_array_equal(image[frame:-frame, frame:-frame], percentiles(np.minimum(stored(), 4000)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4095), st.integers(0, 4095), st.integers(1, ROWS - 1))
def test_any_two_valued_image_becomes_black_and_white(first: int, second: int, rows: int) -> None:
    values = np.full((ROWS, 8), first, np.uint16)
    values[:rows] = second
    image = xray(values, NO_WINDOW, BitsStored=12)
    image.PixelData = b""
    display = pixels.prepare(decode.Decoded(image, values, "")).display
    if first == second:
        assert not display.any()
    elif 0.01 < rows / ROWS < 0.99:
        assert sorted(np.unique(display)) == [0, 1]
        assert (display[0, 0] == 1) == (second > first)
