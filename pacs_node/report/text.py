"""A Structured Report as a person would read it, in plain lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

_FLAGS = ("CompletionFlag", "PreliminaryFlag", "VerificationFlag")


def as_text(dataset: Dataset) -> str:
    """The document's title and flags, then its content, one line an item, indented by depth.

    Images are called by their SOP Instance UID. Any Structured Report will do, not only ours.
    """
    flags = ", ".join(str(dataset.get(keyword) or "").lower() for keyword in _FLAGS if dataset.get(keyword))
    lines = [str(dataset.get("SeriesDescription") or "Structured Report"), f"{_name(dataset)} ({flags})"]
    if dataset.get("CompletionFlagDescription"):
        lines.append(str(dataset.CompletionFlagDescription))
    for study in dataset.get("PredecessorDocumentsSequence") or []:
        for series in study.ReferencedSeriesSequence:
            lines += [
                f"replaces {reference.ReferencedSOPInstanceUID}" for reference in series.ReferencedSOPSequence
            ]
    lines += _lines(dataset, 1)
    return "\n".join(lines)


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    for child in item.get("ContentSequence") or []:
        value = _value(child)
        yield "  " * depth + (f"{_name(child)}: {value}" if value else _name(child))
        yield from _lines(child, depth + 1)


def _name(item: Dataset) -> str:
    return _meaning(item, "ConceptNameCodeSequence") or "(no name)"


def _meaning(item: Dataset, keyword: str) -> str:
    sequence = item.get(keyword) or [Dataset()]
    return str(sequence[0].get("CodeMeaning") or sequence[0].get("CodeValue") or "")


def _value(item: Dataset) -> str:
    """A content item's value (PS3.3 C.17.3): text, code, number with unit, UID, coordinates or image."""
    kind = item.get("ValueType")
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        measured = (item.get("MeasuredValueSequence") or [Dataset()])[0]
        units = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
        unit = str(units.get("CodeValue") or "").strip("{}")
        return f"{float(measured.NumericValue):g} {unit}" if measured.get("NumericValue") is not None else ""
    if kind == "SCOORD":
        points = [f"{float(value):g}" for value in item.get("GraphicData") or []]
        pairs = " ".join(f"({x}, {y})" for x, y in zip(points[::2], points[1::2], strict=False))
        return f"{str(item.get('GraphicType')).lower()} {pairs}"
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
        return str(reference.get("ReferencedSOPInstanceUID") or "")
    for keyword in ("TextValue", "UID", "PersonName", "DateTime", "Date", "Time"):
        if item.get(keyword):
            return str(item[keyword].value)
    return ""
