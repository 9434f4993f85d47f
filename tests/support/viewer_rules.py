"""The observed behaviour of viewers with a report, implemented independently of the node's checks.

Each function returns what the viewer shows, or raises ViewerError where it shows nothing or fails.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

Shape = tuple[str, str, tuple[float, ...]]
"""SOP Instance UID of the image, graphic type and data."""

WEASIS_TYPES = {"TEXT", "CODE", "PNAME", "NUM", "CONTAINER", "IMAGE", "DATETIME", "DATE", "TIME", "UIDREF"}
WEASIS_TYPES |= {"COMPOSITE", "SCOORD"}


class ViewerError(Exception):
    """A viewer shows nothing, or something that differs from the report."""


def ohif(report: Dataset) -> list[Shape]:
    """OHIF 3.12: the coordinates of all measurement groups; of a report titled otherwise, only its text.

    It opens a report titled (126000, DCM) on the image of its first coordinates, unguarded: without any it is
    a black page. It takes every group's tracking UID unasked, and the image from the item in the coordinates.
    """
    if code(report) != "126000":
        if not any(item.get("TextValue") for item in items(report)):
            raise ViewerError("OHIF: a report without measurements shows its text, and this one has none")
        return []
    shapes = []
    for group in groups(report):
        if not any(code(item) == "112040" and item.get("UID") for item in group.ContentSequence):
            raise ViewerError("OHIF: a group without a tracking UID")
        coordinates = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
        if not coordinates:
            raise ViewerError("OHIF: a group without coordinates opens as a black page")
        if not any(item.ValueType == "NUM" for item in group.ContentSequence):
            raise ViewerError("OHIF: a group without a number has no label")
        shapes += [shape(item) for item in coordinates]
    if not shapes:
        raise ViewerError("OHIF: a measurement report without measurements opens as a black page")
    return shapes


def stone(report: Dataset) -> list[Shape]:
    """Stone of Orthanc: the outlines of TID 1410 groups, of Comprehensive SR alone.

    By its source (DicomStructuredReport): it draws a report titled (126000, DCM) of template 1500 by walking
    its top two levels, where what it does not find ends the reading of all of it. It knows codes by CodeValue
    only, an image of the evidence once only, and no graphics but points and polylines. It draws what is
    SELECTED FROM an image named (111040, DCM). Versions before 2024 open nothing else at all.
    """
    if report.SOPClassUID != ComprehensiveSRStorage:
        raise ViewerError("Stone: draws nothing but Comprehensive SR")
    if code(report) != "126000":
        return []
    _stone_codes(report)
    if _template(report) != "1500":
        raise ViewerError("Stone: draws nothing but template 1500 of DCMR")
    evidence = _evidence(report)
    if not evidence or len(evidence) != len(set(evidence)):
        raise ViewerError("Stone: the evidence must list each image once")
    drawn = []
    for container in report.ContentSequence:
        _stone_codes(container)
        if container.ValueType != "CONTAINER" or code(container) != "126010":
            continue
        for group in container.ContentSequence:
            _stone_codes(group)
            if _template(group) not in ("1410", "1501"):
                raise ViewerError("Stone: a group without a template of DCMR draws nothing")
            if _template(group) == "1501":
                continue
            for item in group.ContentSequence:
                _stone_codes(item)
                if item.ValueType == "SCOORD":
                    drawn.append(_outline(item, evidence))
    return drawn


def _outline(item: Dataset, evidence: list[str]) -> Shape:
    drawn = shape(item)
    uid, graphic, data = drawn
    if code(item) != "111030" or code(item.ContentSequence[0]) != "111040":
        raise ViewerError("Stone: an outline is not named (111030, DCM), or its image not (111040, DCM)")
    if uid not in evidence:
        raise ViewerError("Stone: an outline on an image that the evidence does not list")
    if graphic not in ("POINT", "POLYLINE") or len(data) % 2 or (graphic == "POINT" and len(data) != 2):
        raise ViewerError("Stone: a graphic that it does not draw")
    if data[:2] != data[-2:]:
        raise ViewerError("Stone: an outline is not closed")
    return drawn


def _stone_codes(item: Dataset) -> None:
    """The codes that Stone needs in an item; without one it abandons the report."""
    if "RelationshipType" not in item and "ContentTemplateSequence" not in item:
        raise ViewerError("Stone: an item without a RelationshipType")
    (name,) = item.get("ConceptNameCodeSequence") or [Dataset()]
    if not item.get("ValueType") or not name.get("CodeValue") or not name.get("CodingSchemeDesignator"):
        raise ViewerError("Stone: an item without a ValueType, or named without a CodeValue and its scheme")


def _template(item: Dataset) -> str:
    (template,) = item.get("ContentTemplateSequence") or [Dataset()]
    return str(template.get("TemplateIdentifier")) if template.get("MappingResource") == "DCMR" else ""


def stone_text(report: Dataset, within: Dataset | None = None) -> list[str]:
    """Stone since 2024: any report as lines of name and value; what has no name is left out, with all below.

    It takes texts for UTF-8, whatever the character set. `within`: only what this item contains.
    """
    lines = []
    for item in (within or report).get("ContentSequence") or []:
        names = item.get("ConceptNameCodeSequence") or []
        if len(names) != 1 or not names[0].get("CodeMeaning"):
            raise ViewerError("Stone: an item that is left out")
        value = ""
        if item.ValueType == "TEXT":
            value = str(item.TextValue)
        elif item.ValueType == "CODE":
            value = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "NUM":
            (measured,) = item.MeasuredValueSequence
            value = f"{measured.NumericValue} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"
        if not value.isascii() and report.get("SpecificCharacterSet") != "ISO_IR 192":
            raise ViewerError("Stone: letters that it takes for UTF-8 and that are not")
        lines += [f"{names[0].CodeMeaning}: {value}", *stone_text(report, item)]
    return lines


def weasis(report: Dataset) -> list[str]:
    """Weasis, and dsr2html: the tree as lines of name and value, and links to images of the evidence.

    By the source of Weasis (SRReader): an IMAGE, or what an SCOORD is selected from, is a link that opens the
    image with the shape drawn; other value types are "missing", a number is read as one, and each
    item below an SCOORD draws its shape again.
    """
    evidence = set(_evidence(report))
    lines = []
    for item in items(report):
        if item.ValueType not in WEASIS_TYPES:
            raise ViewerError(f"Weasis: {item.ValueType} is not shown")
        if item.ValueType == "CONTAINER" and item.ContinuityOfContent != "SEPARATE":
            raise ViewerError("Weasis, dsr2html: a continuous container loses the names of what it holds")
        names = item.get("ConceptNameCodeSequence") or [{}]
        codes = item.get("ConceptCodeSequence") or [{}]
        if not names[0].get("CodeMeaning") or (item.ValueType == "CODE" and not codes[0].get("CodeMeaning")):
            raise ViewerError("Weasis: an item without the words of its name or value")
        if item.ValueType == "NUM":
            float(item.MeasuredValueSequence[0].NumericValue)
        if item.ValueType == "SCOORD" and len(item.get("ContentSequence") or []) != 1:
            raise ViewerError("Weasis: a shape without a link, or drawn twice")
        for reference in item.get("ReferencedSOPSequence") or []:
            if reference.ReferencedSOPInstanceUID not in evidence:
                raise ViewerError("Weasis: a link to an image that the evidence does not list")
        value = item.get("TextValue") or codes[0].get("CodeMeaning")
        lines.append(f"{names[0].CodeMeaning}: {value or ''}")
    return lines


def _evidence(report: Dataset) -> list[str]:
    """The images that the report lists as its evidence."""
    return [
        str(reference.ReferencedSOPInstanceUID)
        for study in report.get("CurrentRequestedProcedureEvidenceSequence") or []
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]


def shape(coordinates: Dataset) -> Shape:
    """The shape that an SCOORD draws."""
    images = [item for item in coordinates.get("ContentSequence") or [] if item.ValueType == "IMAGE"]
    if len(images) != 1 or images[0].RelationshipType != "SELECTED FROM":
        raise ViewerError("coordinates that are not selected from one image")
    data = tuple(float(value) for value in coordinates.GraphicData)
    return images[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID, coordinates.GraphicType, data


def groups(report: Dataset) -> list[Dataset]:
    """The measurement groups, in their order."""
    return [item for item in items(report) if code(item) == "125007"]


def items(item: Dataset) -> Iterator[Dataset]:
    """An item and all below it."""
    yield item
    for child in item.get("ContentSequence") or []:
        yield from items(child)


def code(item: Dataset) -> str:
    """The code of an item's concept name."""
    names = item.get("ConceptNameCodeSequence") or []
    return str(names[0].CodeValue) if names else ""
