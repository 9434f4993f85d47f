"""From stored pixel values to the display image, and on to the network's input.

The operations have the order of DICOM (PS3.4 N.2, PS3.3 C.11): modality LUT or rescale, VOI LUT or window,
presentation LUT shape. Each maps a stored value to a brightness, so they are applied to the list of possible
stored values, and to the image in a single lookup.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from pacs_node.analyze.decode import Decoded, StoredValues
from pacs_node.dicom.reading import parsing, reason
from pacs_node.errors import InputError
from pacs_node.records import PERCENTILES_SHOW_MORE, Point

ROBUST_PERCENTILES = (0.5, 99.5)
"""Window of an image without a usable one."""
NO_CONTRAST, LITTLE_CONTRAST = 0.002, 0.02
"""Shares of shaded pixels (`_shaded`) below which an image is blank, or another window is tried.

The least of 3466 X-rays of limbs is 0.085, and 0.0087 on a plate of ten times the area.
"""
_GRID = 256
"""Longest side of the sample of pixels."""
_SMOOTHED = 9
"""Width of the median filter, which removes noise, hot pixels and the edges of letters."""
_SAME_GRAY = 2
"""Largest difference, of 255, between grays that look the same."""
_FLAT_AREAS = 3
"""Grays that are not part of a picture, whatever their area: background, frame, marker."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A display image."""

    display: NDArray[np.float32]
    """(rows, columns), 0..1, bright is dense."""
    notes: tuple[str, ...]
    """Irregularities of the header, and how they were interpreted."""
    is_blank: bool
    """Whether the image is flat, apart from a frame, a letter or single pixels."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The place of a letterboxed image in the network's input, exact despite rounded sizes."""

    scale: Point
    offset: Point

    def to_input(self, point: Point) -> Point:
        """Source (column, row) to network input (column, row)."""
        return point[0] * self.scale[0] + self.offset[0], point[1] * self.scale[1] + self.offset[1]

    def to_source(self, point: Point) -> Point:
        """Network input (column, row) to source (column, row)."""
        return (point[0] - self.offset[0]) / self.scale[0], (point[1] - self.offset[1]) / self.scale[1]


def prepare(decoded: Decoded) -> Prepared:
    """The display image of stored values.

    If the stated rescale, LUT or window hides the contrast of the pixels, a percentile window takes their
    place. Raises InputError if one of them cannot be read.
    """
    header, pixels = decoded.header, decoded.pixels
    notes = list(decoded.notes)
    unsigned: NDArray[np.uint8] | NDArray[np.uint16] = (
        pixels.view(np.uint8) if pixels.dtype.itemsize == 1 else pixels.view(np.uint16)
    )
    stored: StoredValues = np.arange(1 << 8 * pixels.dtype.itemsize).astype(unsigned.dtype).view(pixels.dtype)
    step = -(-max(pixels.shape) // _GRID)
    sample = unsigned[::step, ::step]
    is_gray = header.SamplesPerPixel == 1
    with parsing(lambda e: InputError(f"a rescale, window or LUT of the image cannot be read: {reason(e)}")):
        modality = _modality(stored, header) if is_gray else stored.astype(np.float64)
        brightness = _brightness(modality, stored, unsigned, header, notes)
        # Windows and inversion are for gray images (PS3.3 C.11.2, C.7.6.3.1.2).
        is_inverse = is_gray and _is_inverse(header, notes)
        ratio = header.get("PixelAspectRatio")
        if isinstance(ratio, MultiValue) and len(ratio) == 2 and int(ratio[0]) != int(ratio[1]):
            notes.append(
                f"pixels are not square (PixelAspectRatio {ratio[0]}\\{ratio[1]}); analyzed as stored"
            )
        if not np.isfinite(brightness).all():
            raise InputError("the rescale or window of the image leads to values that are not numbers")
        shaded = _shaded(brightness, sample, stored)
        if shaded < LITTLE_CONTRAST:
            # Also without the rescale or modality LUT, which may map all values to the same.
            for values in (modality, stored.astype(np.float64)):
                other = _by_percentiles(values, stored, unsigned, header)
                if (more := _shaded(other, sample, stored)) >= max(NO_CONTRAST, 2 * shaded):
                    brightness, shaded = other, more
                    notes.append(PERCENTILES_SHOW_MORE)
                    break
    seen = 1 - brightness if is_inverse else brightness
    return Prepared(seen.astype(np.float32)[unsigned], tuple(notes), is_blank=shaded < NO_CONTRAST)


def _brightness(
    modality: NDArray[np.float64],
    stored: StoredValues,
    unsigned: NDArray[np.uint8] | NDArray[np.uint16],
    header: Dataset,
    notes: list[str],
) -> NDArray[np.float64]:
    """The brightness of each stored value as the header states it, before inversion."""
    if header.SamplesPerPixel != 1:
        return np.asarray(np.clip(stored / (2.0 ** int(header.BitsStored) - 1), 0, 1), np.float64)
    if not np.isfinite(modality).all():
        return modality
    brightness = _voi_lut(modality, header)
    if brightness is not None:
        return brightness
    if window := _stated_window(header, notes):
        return windowed(modality, *window)
    return _by_percentiles(modality, stored, unsigned, header)


def _by_percentiles(
    values: NDArray[np.float64],
    stored: StoredValues,
    unsigned: NDArray[np.uint8] | NDArray[np.uint16],
    header: Dataset,
) -> NDArray[np.float64]:
    """The brightness of each value in the window of ROBUST_PERCENTILES; 0 if it has no width."""
    seen = np.bincount(unsigned.ravel(), minlength=len(stored))
    low, high = _robust_window(values, seen, _padding(stored, header))
    if not 0 < high - low < np.inf:
        return np.zeros(len(values))
    with np.errstate(over="ignore"):
        return np.clip((values - low) / (high - low), 0, 1)


def _shaded(
    brightness: NDArray[np.float64], sample: NDArray[np.unsignedinteger], stored: StoredValues
) -> float:
    """The share of the sampled pixels that have none of the three commonest grays.

    It is about zero with a frame, a letter, saturated areas or rounding errors, but not for an X-ray.
    """
    grays = np.rint(brightness * 255).astype(np.uint8)
    by_value = grays[np.argsort(stored)]
    picture = grays[sample]
    if min(picture.shape) >= _SMOOTHED:
        picture = np.asarray(cv2.medianBlur(picture, _SMOOTHED), np.uint8)
    counts = np.bincount(picture.ravel(), minlength=256)
    for _ in range(_FLAT_AREAS):
        middle = int(np.convolve(counts, np.ones(2 * _SAME_GRAY + 1, np.intp), "same").argmax())
        area = slice(max(0, middle - _SAME_GRAY), middle + _SAME_GRAY + 1)
        is_commonest = by_value == area.start + counts[area].argmax()
        counts[area] = 0
        # Neighboring stored values differ by rounding, even if a narrow window spreads their grays.
        counts[by_value[1:][is_commonest[:-1]]] = 0
        counts[by_value[:-1][is_commonest[1:]]] = 0
    return float(counts.sum() / picture.size)


def windowed(
    values: NDArray[np.float64], center: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64]:
    """Values in a window, 0..1 (PS3.3 C.11.2.1.2, C.11.2.1.3.1 SIGMOID, C.11.2.1.3.2 LINEAR_EXACT)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def letterbox(
    display: NDArray[np.float32], size: int, stretch: tuple[float, float]
) -> tuple[NDArray[np.float32], Placement]:
    """A display image, resized and stretched, in the middle of a black square (size, size) of 0..1.

    `stretch` are the percentiles that become 0 and 1, so that the answer hardly depends on the window.
    """
    rows, columns = display.shape
    scale = size / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    content = cv2.resize(
        display, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    low, high = np.percentile(content, stretch)
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size), np.float32)
    if high > low:
        square[top : top + height, left : left + width] = np.clip((content - low) / (high - low), 0, 1)
    return square, Placement(scale=(width / columns, height / rows), offset=(float(left), float(top)))


def _modality(stored: StoredValues, header: Dataset) -> NDArray[np.float64]:
    """Stored values by modality LUT or rescale (PS3.3 C.11.1)."""
    if header.get("ModalityLUTSequence"):
        return _looked_up(stored.astype(np.float64), header.ModalityLUTSequence[0])[0]
    slope, intercept = _first(header.get("RescaleSlope")), _first(header.get("RescaleIntercept"))
    values = stored.astype(np.float64)
    return values * (1.0 if slope is None else slope) + (intercept or 0.0)


def _voi_lut(values: NDArray[np.float64], header: Dataset) -> NDArray[np.float64] | None:
    """Brightness by the first VOI LUT, or None (PS3.3 C.11.2)."""
    if not header.get("VOILUTSequence"):
        return None
    looked_up, bits = _looked_up(values, header.VOILUTSequence[0])
    brightness: NDArray[np.float64] = np.clip(looked_up / (2**bits - 1), 0, 1)
    return brightness


def _looked_up(values: NDArray[np.float64], lut: Dataset) -> tuple[NDArray[np.float64], int]:
    """Values through a LUT, and the bits of its entries (PS3.3 C.11.1.1.1, C.11.2.1.1).

    The data are numbers, or bytes if there are too many for US; entries of 8 bits may share a word.
    """
    count, first, bits = (int(value) for value in lut.LUTDescriptor)
    count = count or 1 << 16
    if not 8 <= bits <= 16:
        raise ValueError(f"LUT entries of {bits} bits; there are 8 to 16")
    if first > 0x7FFF and values.min() < 0:
        first -= 1 << 16  # written unsigned though the values are signed
    data = lut.LUTData
    packed = data if isinstance(data, bytes) else np.atleast_1d(np.asarray(data, np.uint16)).tobytes()
    entries = np.frombuffer(packed, np.uint8 if bits == 8 and len(packed) < 2 * count else np.uint16)
    if len(entries) < count:
        raise ValueError(f"a LUT of {len(entries)} entries; its descriptor says {count}")
    at = np.clip(np.rint(values) - first, 0, count - 1).astype(np.intp)
    return entries[at].astype(np.float64), bits


def _stated_window(header: Dataset, notes: list[str]) -> tuple[float, float, str] | None:
    """Center, width and function of the header's first window, or None if it has no usable one."""
    center, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if center is None or width is None:
        if center is not None or width is not None:
            notes.append("WindowCenter or WindowWidth is missing; a percentile window was used")
        return None
    function = str(header.get("VOILUTFunction") or "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        notes.append("VOILUTFunction is unknown; LINEAR was used")
        function = "LINEAR"
    if width < 1 if function == "LINEAR" else width <= 0:
        notes.append(f"WindowWidth {width:g} is not valid with {function}; a percentile window was used")
        return None
    return center, width, function


def _first(value: object) -> float | None:
    """The first value of an attribute of decimal strings."""
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(str(value))


def _padding(stored: StoredValues, header: Dataset) -> NDArray[np.bool_]:
    """A mask of the stored values that are padding (PS3.3 C.7.5.1.1.2)."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(stored), bool)
    last = header.get("PixelPaddingRangeLimit", first)
    return np.asarray((stored >= min(first, last)) & (stored <= max(first, last)))


def _robust_window(
    values: NDArray[np.float64], seen: NDArray[np.intp], padding: NDArray[np.bool_]
) -> tuple[float, float]:
    """The values at ROBUST_PERCENTILES of the pixels that are not padding."""
    counts = np.where(padding, 0, seen)
    if not counts.any():
        counts = seen
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[order])
    low, high = (
        values[order][np.searchsorted(reached, reached[-1] * part / 100)] for part in ROBUST_PERCENTILES
    )
    return float(low), float(high)


def _is_inverse(header: Dataset, notes: list[str]) -> bool:
    """Whether low values are bright (PS3.3 C.7.6.3.1.2, C.11.6.1.2); PresentationLUTShape prevails."""
    shape = str(header.get("PresentationLUTShape") or "")
    photometric = str(header.get("PhotometricInterpretation") or "")
    monochrome1 = photometric == "MONOCHROME1"
    if shape not in ("IDENTITY", "INVERSE"):
        return monochrome1
    if (shape == "INVERSE") != monochrome1:
        notes.append(f"PresentationLUTShape {shape} contradicts {photometric}; the shape was used")
    return shape == "INVERSE"
