"""The Secondary Capture of an image: its heat map over the windowed image, with the model's answer.

It has the aspect and the orientation of the source, square pixels, and no spacing: it is not for measuring.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from pacs_node import __version__, config
from pacs_node.dicom import anatomy
from pacs_node.errors import InputError
from pacs_node.records import Finding, ImageResult, ModelIdentity
from pacs_node.report import content, source, sr, uids
from pacs_node.report.facts import ImageFacts, ReportFacts, percent

SERIES_NUMBER = 9902
_EXPLANATIONS = {"Grad-CAM": codes.DCM.GradientWeightedClassActivation}
"""Codes of CID 217; any other map is only called a visual explanation."""
_SMALLEST = 512
"""Long side below which the picture is enlarged, so that its text can be read."""
_OPAQUE = 0.6
"""Opacity of the hottest spot: anatomy stays readable under it."""
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (200, 200, 200)


def size(header: Dataset, max_size: int) -> tuple[int, int]:
    """Rows and columns of the Secondary Capture of a source image: square pixels, its long side capped.

    PixelAspectRatio (vertical, horizontal) counts, or without it the spacing of rows and columns.
    """
    rows, columns = float(header.Rows), float(header.Columns)
    for keyword in ("PixelAspectRatio", "ImagerPixelSpacing", "PixelSpacing"):
        vertical, horizontal = source.pair(header, keyword) or (1.0, 1.0)
        if vertical != horizontal:
            rows, columns = rows * max(vertical / horizontal, 1), columns * max(horizontal / vertical, 1)
            break
    longest = max(rows, columns)
    scale = min(1.0, max_size / longest) if max_size else 1.0
    scale = max(scale, min(_SMALLEST, max_size or _SMALLEST) / longest)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def render(
    image: ImageResult, display: NDArray[np.float32], model: ModelIdentity, settings: config.ReportSettings
) -> NDArray[np.uint8]:
    """The picture: RGB, uint8, shape (rows, columns, 3) as `size` says.

    `display` is the windowed source, float32, shape (rows, columns), 0 (black) to 1 (white). The heat map's
    opacity grows with its value (colours: plasma, perceptually uniform); below the model's threshold it fades
    with the probability. Raises InputError without a finding, or if `display` has another shape than the
    source.
    """
    finding, header = image.finding, image.source
    if finding is None:
        raise InputError(f"{image.instance.sop_instance_uid}: was not analyzed, so it has no heat map")
    if display.shape != (header.Rows, header.Columns):
        raise InputError(
            f"{image.instance.sop_instance_uid}: shown as {display.shape}, but Rows and Columns say "
            f"{(header.Rows, header.Columns)}"
        )
    rows, columns = size(header, settings.max_size)
    shrinks = rows * columns < display.size
    grey = cv2.resize(
        (np.clip(display, 0, 1) * 255 + 0.5).astype(np.uint8),
        (columns, rows),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    picture = blend(np.asarray(grey, np.uint8), heat(finding, header, model.threshold, (rows, columns)))
    scale = np.array([columns / header.Columns, rows / header.Rows])
    width = max(1, round(max(rows, columns) / 700))
    for region in finding.regions:
        outline = np.round((np.asarray(region.polygon) * scale - 0.5) * 16).astype(np.int32)
        for colour, thickness in ((_BLACK, 3 * width), (_WHITE, width)):
            cv2.polylines(picture, [outline], True, colour, thickness, cv2.LINE_AA, shift=4)
    answer = f"AI: {model.phrase(finding.positive)}, {percent(finding.probability)}"
    head = [answer, f"{model.name} {model.version}"]
    _annotate(picture, head, settings.label)
    return picture


def build(facts: ReportFacts, image: ImageFacts, display: NDArray[np.float32]) -> Dataset:
    """The Secondary Capture of an image, with file meta information, ready to be written (Explicit VR LE).

    `display` as for `render`. The same request gives the same UIDs. Raises InputError where `render` does or
    where the source lacks a UID. PS3.3 A.8.1.
    """
    request, header = facts.request, image.source
    normal = source.normalize(facts.newest)
    body_part = source.body_part_examined(header)
    capture = SCImage(
        pixel_array=render(image, display, facts.model, facts.settings),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=normal.StudyInstanceUID,
        series_instance_uid=uids.sc_series(facts, body_part),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids.sc(facts, image),
        instance_number=1,
        manufacturer=content.MANUFACTURER,
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_birth_date="",
        series_description=f"AI heat map ({facts.model.explanation}), research use only",
        manufacturer_model_name="pacs-node",
        device_serial_number=request.node.device_uid,
        software_versions=__version__,
        content_qualification="RESEARCH",
    )
    capture.DeviceUID = request.node.device_uid
    capture.ConversionType = "SYN"
    setattr(capture, "InstanceNumber", source.number(header, "InstanceNumber"))  # noqa: B010
    # highdicom refuses an empty orientation, so it was given one, which the known orientation replaces.
    capture.PatientOrientation = source.orientation(header)
    if len(capture.PixelData) % 2:
        capture.PixelData += b"\0"
    _describe(capture, facts, image)
    source.inherit(capture, facts.newest, request.created_at)
    capture.DateOfSecondaryCapture = capture.ContentDate
    capture.TimeOfSecondaryCapture = capture.ContentTime
    return capture


def _describe(capture: Dataset, facts: ReportFacts, image: ImageFacts) -> None:
    """State the body part and side of this image, what it was derived from, and how."""
    header = image.source
    if body_part := source.body_part_examined(header):
        capture.BodyPartExamined = body_part
    if image.side:
        capture.ImageLaterality = image.side
    elif not anatomy.unpaired(header):
        capture.Laterality = None  # Type 2C: empty says that it is unknown
    if header.get("BurnedInAnnotation") in ("YES", "NO"):
        capture.BurnedInAnnotation = header.BurnedInAnnotation
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if header.get("LossyImageCompression") == "01" and header.get(keyword):
            with suppress(TypeError, ValueError):  # a ratio that is no number
                setattr(capture, keyword, header[keyword].value)
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.instance.sop_class_uid
    reference.ReferencedSOPInstanceUID = image.instance.sop_instance_uid
    reference.PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    capture.SourceImageSequence = [reference]
    model = facts.model
    capture.DerivationDescription = (
        f"Heat map ({model.explanation}) of {model.name} {model.full_version} over the windowed image"
    )
    capture.DerivationCodeSequence = [
        CodedConcept.from_code(_EXPLANATIONS.get(model.explanation, codes.DCM.VisualExplanation))
    ]
    capture.ContributingEquipmentSequence = [sr.processing_equipment(facts.request, facts.newest)]


def heat(
    finding: Finding, header: Dataset, threshold: float, out_shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """The heat map over the whole image as it is drawn, uint8 of `out_shape` (rows, columns).

    Every map peaks at 1; unscaled, that of a negative image would glow like that of a positive one.
    """
    values = finding.heat_map.at_size(header.Rows, header.Columns, out_shape)
    values = values * min(1.0, finding.probability / threshold)
    return np.asarray(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def overlay(heat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The heat map alone, RGBA (rows, columns, 4), not premultiplied; over the image, it is `blend`."""
    table = np.column_stack([_colours(), np.asarray(_opacity() * 255 + 0.5).astype(np.uint8)])
    return np.asarray(table[heat], np.uint8)


def blend(grey: NDArray[np.uint8], heat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The heat map over the image, both uint8 of shape (rows, columns), as RGB."""
    opacity = _opacity()
    colours = _colours().astype(np.float32) * opacity[:, None]
    through = cv2.LUT(heat, ((1 - opacity) * 255 + 0.5).astype(np.uint8))
    dimmed = cv2.multiply(grey, through, scale=1 / 255)
    tints = [cv2.LUT(heat, (colours[:, channel] + 0.5).astype(np.uint8)) for channel in range(3)]
    return np.asarray(cv2.merge([cv2.add(dimmed, tint) for tint in tints]), np.uint8)


def _opacity() -> NDArray[np.float32]:
    """The opacity of each of the 256 values, 0..1."""
    ramp = np.arange(256, dtype=np.float32) / 255
    return np.asarray(_OPAQUE * np.clip((ramp - 0.15) / 0.85, 0, 1), np.float32)


def _colours() -> NDArray[np.uint8]:
    """The 256 colours of the map, RGB."""
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_PLASMA)
    return np.asarray(ramp[:, 0, ::-1], np.uint8)


def _annotate(picture: NDArray[np.uint8], head: list[str], label: str) -> None:
    """Write the outcome at the top left, the label at the bottom left, and the colour bar at the right edge.

    The ground is darkened and not covered, so that a side marker under the text can still be read.
    """
    rows, columns = picture.shape[:2]
    points = max(9, round((rows * columns) ** 0.5 / 48))
    while True:
        font = _font(points)
        room = columns - 2 * points
        top, bottom = [line for text in head for line in _wrap(text, font, room)], _wrap(label, font, room)
        if points <= 8 or (len(top) + len(bottom)) * points * 1.4 < rows * 0.4:
            break
        points -= 1
    step, margin = round(points * 1.35), points // 2
    _write(picture, top, font, margin, margin, step)
    _write(picture, bottom, font, margin, rows - margin - step * len(bottom) - points // 2, step)
    _colour_bar(picture, font, points)


def _font(points: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans out of matplotlib's folder: Pillow's own font has no letter beyond ASCII."""
    package = find_spec("matplotlib")
    folder = Path(package.origin).parent if package and package.origin else Path()
    return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", points)


def _wrap(text: str, font: ImageFont.FreeTypeFont, room: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _write(
    picture: NDArray[np.uint8],
    lines: list[str],
    font: ImageFont.FreeTypeFont,
    left: int,
    top: int,
    step: int,
) -> None:
    width = max(round(font.getlength(line)) for line in lines) + step
    patch = picture[max(0, top) : top + step * len(lines) + step // 3, left : left + width]
    patch //= 3
    drawn = Image.fromarray(patch)
    pen = ImageDraw.Draw(drawn)
    for number, line in enumerate(lines):
        pen.text((step // 3, step * number + step // 8), line, fill=_WHITE, font=font)
    patch[:] = np.asarray(drawn)


def _colour_bar(picture: NDArray[np.uint8], font: ImageFont.FreeTypeFont, points: int) -> None:
    """From low to high, in the colours as they are over black, halfway up the right edge."""
    rows, columns = picture.shape[:2]
    height, thick = round(rows * 0.3), max(4, points // 2)
    right, top = columns - points // 2, (rows - height) // 2
    ramp = np.linspace(255, 0, height).round().astype(np.uint8)
    picture[top : top + height, right - thick : right] = _colours()[ramp][:, None]
    cv2.rectangle(picture, (right - thick - 1, top - 1), (right, top + height), _GREY, 1)
    for word, at in (("high", top - round(points * 1.8)), ("low", top + height + points // 3)):
        width = round(font.getlength(word)) + round(points * 1.35)
        if at >= 0 and at + 2 * points <= rows and width < columns // 2:
            _write(picture, [word], font, max(0, columns - width), at, round(points * 1.35))
