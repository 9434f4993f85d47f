"""What viewers do with a report, as far as it was seen: written from their side, apart from our own checks.

Each function gives what the viewer would show, or raises ViewerError where it would show nothing or fail.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

Shape = tuple[str, str, tuple[float, ...]]
"""SOP Instance UID of the image, graphic type and data."""


class ViewerError(Exception):
    """A viewer shows nothing, or something else than the report says."""


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

    It draws what is SELECTED FROM an image named (111040, DCM), and only closed polylines as outlines.
    """
    if report.SOPClassUID != ComprehensiveSRStorage:
        raise ViewerError("Stone: opens nothing but Comprehensive SR")
    drawn = []
    for group in groups(report):
        if group.ContentTemplateSequence[0].TemplateIdentifier != "1410":
            continue
        for item in group.ContentSequence:
            if item.ValueType == "SCOORD":
                if code(item.ContentSequence[0]) != "111040":
                    raise ViewerError("Stone: the image of an outline is not named (111040, DCM)")
                drawn.append(shape(item))
                if drawn[-1][2][:2] != drawn[-1][2][-2:]:
                    raise ViewerError("Stone: an outline is not closed")
    return drawn


def weasis(report: Dataset) -> list[str]:
    """Weasis, and dsr2html: the tree as lines of name and value, and links to images of the evidence."""
    evidence = {
        reference.ReferencedSOPInstanceUID
        for study in report.get("CurrentRequestedProcedureEvidenceSequence") or []
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    lines = []
    for item in items(report):
        if item.ValueType == "CONTAINER" and item.ContinuityOfContent != "SEPARATE":
            raise ViewerError("Weasis, dsr2html: a continuous container loses the names of what it holds")
        if not item.get("ConceptNameCodeSequence"):
            raise ViewerError("Weasis: an item without a name")
        for reference in item.get("ReferencedSOPSequence") or []:
            if reference.ReferencedSOPInstanceUID not in evidence:
                raise ViewerError("Weasis: a link to an image that the evidence does not list")
        value = item.get("TextValue") or (item.get("ConceptCodeSequence") or [{}])[0].get("CodeMeaning")
        lines.append(f"{item.ConceptNameCodeSequence[0].CodeMeaning}: {value or ''}")
    return lines


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
    """The code of its name."""
    names = item.get("ConceptNameCodeSequence") or []
    return str(names[0].CodeValue) if names else ""
