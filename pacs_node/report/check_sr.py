"""The rules of Structured Reports: those of DICOM, and those of viewers that show nothing otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from pacs_node.records import ImageResult, Outcome, ReportRequest
from pacs_node.report import content, wording
from pacs_node.report.rule import require

_VALUES = {
    "CODE": "ConceptCodeSequence",
    "TEXT": "TextValue",
    "NUM": "MeasuredValueSequence",
    "UIDREF": "UID",
    "IMAGE": "ReferencedSOPSequence",
    "SCOORD": "GraphicData",
    "CONTAINER": "ContinuityOfContent",
}
_FLAGS = {"VerificationFlag": "UNVERIFIED", "PreliminaryFlag": "PRELIMINARY", "Modality": "SR"}


def verify(dataset: Dataset, request: ReportRequest) -> None:
    """Check the report of the request's study. Raises CheckError."""
    outcome = wording.outcome(request)
    complete = all(image.finding for image in request.images) and not request.missing_images
    flags = {**_FLAGS, "CompletionFlag": "COMPLETE" if complete else "PARTIAL"}
    for keyword, value in flags.items():
        require(dataset.get(keyword) == value, dataset, f"{keyword} must be {value}")
    require("ReferencedPerformedProcedureStepSequence" in dataset, dataset, "MPPS reference must be present")
    require(
        bool(dataset.get("PredecessorDocumentsSequence")) == (request.predecessor is not None),
        dataset,
        "PredecessorDocumentsSequence must be present in amended reports and only there",
    )
    for item in _items(dataset):
        _check_item(dataset, item)
    _check_references(dataset, request)
    title = _value(dataset, "ConceptNameCodeSequence")
    template = "2000" if outcome is Outcome.FAILED else "1500"
    require(_template(dataset) == template, dataset, f"the report must be of template {template} of DCMR")
    if outcome is Outcome.FAILED:
        require(title == "18748-4", dataset, "a report without findings must be titled (18748-4, LN)")
        texts = _named(dataset, "121073")
    else:
        require(title == "126000", dataset, "a report with findings must be titled (126000, DCM)")
        require(bool(_named(dataset, content.COMMENT.value)), dataset, "the label must be in a Comment")
        _check_groups(dataset, request)
        texts = [item for item in dataset.ContentSequence if item.RelationshipType == "CONTAINS"][:1]
        require(_is_named(texts, content.SUMMARY.value), dataset, "the Summary must be the first content")
    require(bool(texts) and bool(texts[0].get("TextValue")), dataset, "a report must begin with its summary")
    phrase = {
        Outcome.FAILED: "NOT ANALYZED",
        Outcome.NEGATIVE: request.model.negative_phrase,
        Outcome.POSITIVE: request.model.positive_phrase,
    }[outcome]
    require(phrase in str(texts[0].TextValue), dataset, f"the summary must say {phrase!r}")


def _check_item(dataset: Dataset, item: Dataset) -> None:
    kind, name = str(item.get("ValueType")), _value(item, "ConceptNameCodeSequence")
    require(kind in _VALUES, dataset, f"a content item has the ValueType {kind}, which no report of ours has")
    require(bool(name), dataset, f"a {kind} item must have a ConceptNameCodeSequence")
    codes = [*item.ConceptNameCodeSequence, *(item.get("ConceptCodeSequence") or [])]
    require(
        all(code.get("CodeMeaning") for code in codes), dataset, f"codes of {name} must have a CodeMeaning"
    )
    require(bool(item.get(_VALUES[kind])), dataset, f"{kind} item {name} must have a {_VALUES[kind]}")
    root = item is dataset
    require(root or bool(item.get("RelationshipType")), dataset, f"item {name} must have a RelationshipType")
    if kind == "CONTAINER":
        require(item.ContinuityOfContent == "SEPARATE", dataset, "ContinuityOfContent must be SEPARATE")
        require(bool(item.get("ContentSequence")), dataset, f"container {name} must not be empty")


def _check_references(dataset: Dataset, request: ReportRequest) -> None:
    ours = {(i.instance.sop_class_uid, i.instance.sop_instance_uid) for i in request.images}
    for item in _items(dataset):
        for reference in item.get("ReferencedSOPSequence") or []:
            named = (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID)
            require(named in ours, dataset, "ReferencedSOPSequence must name images of the study")
    listed = [
        (series.SeriesInstanceUID, reference.ReferencedSOPInstanceUID)
        for study in dataset.get("CurrentRequestedProcedureEvidenceSequence") or []
        if study.StudyInstanceUID == request.study_instance_uid
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]
    images = [(i.instance.series_instance_uid, i.instance.sop_instance_uid) for i in request.images]
    fits = sorted(listed) == sorted(images)
    require(fits, dataset, "CurrentRequestedProcedureEvidenceSequence must list each image of the study once")


def _check_groups(dataset: Dataset, request: ReportRequest) -> None:
    """Each region and each analyzed image has a group; OHIF and Stone draw them by these rules."""
    images = {image.instance.sop_instance_uid: image for image in request.images if image.finding}
    groups = _named(dataset, content.MEASUREMENT_GROUP.value)
    tracked = [item.UID for group in groups for item in _named(group, content.TRACKING_UID.value)]
    require(
        len(tracked) == len(set(tracked)) == len(groups), dataset, "each group needs its own tracking UID"
    )
    whole = []
    for group in groups:
        image = _check_coordinates(dataset, group, images)
        template = _template(group)
        require(template in ("1410", "1501"), dataset, "a group must be of TID 1410 or 1501")
        if template == "1501":
            whole.append(image.instance.sop_instance_uid)
        _check_statement(dataset, group, image, template)
    require(sorted(whole) == sorted(images), dataset, "each analyzed image needs one TID 1501 group")
    regions = sum(len(image.finding.regions) for image in images.values() if image.finding)
    require(len(groups) == len(whole) + regions, dataset, "each region needs one TID 1410 group")


def _check_coordinates(dataset: Dataset, group: Dataset, images: dict[str, ImageResult]) -> ImageResult:
    coordinates = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
    require(len(coordinates) == 1, dataset, "each group needs one SCOORD, or OHIF opens a black page")
    scoord = coordinates[0]
    require(_is_named([scoord], content.IMAGE_REGION.value), dataset, "a SCOORD must be named (111030, DCM)")
    selected = scoord.get("ContentSequence") or []
    require(
        len(selected) == 1
        and selected[0].RelationshipType == "SELECTED FROM"
        and _is_named(selected, content.ORIGINAL_SOURCE.value),
        dataset,
        "a SCOORD must be SELECTED FROM one (111040, DCM) image, or Stone draws nothing",
    )
    uid = str(selected[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    require(uid in images, dataset, "a SCOORD must be selected from an analyzed image")
    header, points = images[uid].source, list(scoord.GraphicData)
    inside = [0 <= x <= header.Columns for x in points[::2]] + [0 <= y <= header.Rows for y in points[1::2]]
    require(all(inside), dataset, "GraphicData must lie inside of the image")
    require(scoord.GraphicType in ("POINT", "POLYLINE"), dataset, "a SCOORD must be a POINT or a POLYLINE")
    if scoord.GraphicType == "POLYLINE":
        closed = len(points) >= 8 and points[:2] == points[-2:]
        require(closed, dataset, "a POLYLINE must be closed and have three corners or more")
    return images[uid]


def _check_statement(dataset: Dataset, group: Dataset, image: ImageResult, template: str) -> None:
    """What a group says must be what the model said, and a negative must not name a Finding."""
    finding = image.finding
    if finding is None:  # not among the images that coordinates may be selected from
        return
    named = bool(_named(group, content.FINDING.value))
    require(named == finding.positive, dataset, "a Finding item must be in positive groups and only there")
    concept = content.CERTAINTY if finding.positive else content.PROBABILITY
    numbers = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    require(
        len(numbers) == 1 and _is_named(numbers, concept.value),
        dataset,
        f"a group's number must be ({concept.value}, DCM)",
    )
    percent = float(numbers[0].MeasuredValueSequence[0].NumericValue)
    require(abs(percent - finding.probability * 100) < 0.006, dataset, "a group's number must be the model's")
    if template == "1501":
        verdict = content.PRESENT if finding.positive else content.ABSENT
        codes = [
            _value(item, "ConceptCodeSequence") for item in group.ContentSequence if item.ValueType == "CODE"
        ]
        other = content.ABSENT if finding.positive else content.PRESENT
        fits = verdict.value in codes and other.value not in codes
        require(fits, dataset, f"a {'positive' if finding.positive else 'negative'} image must say so")


def _items(item: Dataset) -> Iterator[Dataset]:
    yield item
    for child in item.get("ContentSequence") or []:
        yield from _items(child)


def _named(item: Dataset, code: str) -> list[Dataset]:
    return [found for found in _items(item) if _value(found, "ConceptNameCodeSequence") == code]


def _is_named(items: list[Dataset], code: str) -> bool:
    return bool(items) and _value(items[0], "ConceptNameCodeSequence") == code


def _template(item: Dataset) -> str:
    """The template of DCMR that an item says it is of."""
    template = (item.get("ContentTemplateSequence") or [Dataset()])[0]
    return str(template.get("TemplateIdentifier")) if template.get("MappingResource") == "DCMR" else ""


def _value(item: Dataset, keyword: str) -> str:
    sequence = item.get(keyword) or [Dataset()]
    return str(sequence[0].get("CodeValue") or "")
