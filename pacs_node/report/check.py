"""The rules that every result must keep before it may leave; what breaks one is quarantined.

They prevent what a hospital would suffer from: an object filed with another patient, a report that opens as
a black page, a negative that reads as a positive.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from pacs_node.errors import CheckError
from pacs_node.records import Outcome
from pacs_node.report import content, sc, source
from pacs_node.report.facts import ImageFacts, ReportFacts

_TYPE_1 = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "Manufacturer",
    "InstanceCreationDate",
    "ContentDate",
    "ContentTime",
)
_IDENTITY = (*source.TYPE_2, "IssuerOfPatientID", "StudyInstanceUID")
_ITEM_VALUES = {
    "CODE": "ConceptCodeSequence",
    "TEXT": "TextValue",
    "NUM": "MeasuredValueSequence",
    "UIDREF": "UID",
    "IMAGE": "ReferencedSOPSequence",
    "SCOORD": "GraphicData",
    "CONTAINER": "ContinuityOfContent",
}
_REPORT_VALUES = {"VerificationFlag": "UNVERIFIED", "PreliminaryFlag": "PRELIMINARY", "Modality": "SR"}
_CAPTURE_VALUES = {
    "Modality": "OT",
    "ConversionType": "SYN",
    "ContentQualification": "RESEARCH",
    "PhotometricInterpretation": "RGB",
    "SamplesPerPixel": 3,
    "PlanarConfiguration": 0,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
}
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


def verify(dataset: Dataset, facts: ReportFacts) -> None:
    """Check a Structured Report or Secondary Capture made from these facts.

    Raises CheckError that names the object, the attribute and the rule, and no value of the patient's.
    """
    try:
        _check_identity(dataset, facts)
        _check_uids(dataset, facts)
        if dataset.SOPClassUID in (ComprehensiveSRStorage, Comprehensive3DSRStorage):
            _check_report(dataset, facts)
        else:
            is_capture = dataset.SOPClassUID == SecondaryCaptureImageStorage
            require(is_capture, "SOPClassUID must be that of a Structured Report or a Secondary Capture")
            _check_capture(dataset, facts)
    except CheckError as error:
        uid = dataset.get("SOPInstanceUID") or "an object without SOPInstanceUID"
        raise CheckError(f"{uid}: {error}") from error


def require(kept: bool, rule: str) -> None:
    """Raise CheckError with the rule unless it is kept."""
    if not kept:
        raise CheckError(rule)


def _check_identity(dataset: Dataset, facts: ReportFacts) -> None:
    for keyword in _TYPE_1:
        require(dataset.get(keyword) not in (None, ""), f"{keyword} must have a value")
    for keyword in source.TYPE_2:
        require(keyword in dataset, f"{keyword} must be present, if only empty")
    header = facts.newest
    for keyword in _IDENTITY:
        stated, expected = str(dataset.get(keyword) or ""), str(header.get(keyword) or "")
        require(stated == expected, f"{keyword} must be that of the source image")
    require(
        dataset.StudyInstanceUID == facts.request.study_instance_uid,
        "StudyInstanceUID must be that of the study",
    )
    require(dataset.get("DeviceUID") == facts.request.node.device_uid, "DeviceUID must be the node's")
    description = str(dataset.get("SeriesDescription") or "")
    require(0 < len(description) <= 64, "SeriesDescription must have 1 to 64 characters")
    require("AI" in description, "SeriesDescription must say that an AI speaks")


def _check_uids(dataset: Dataset, facts: ReportFacts) -> None:
    # A source may state invalid UIDs, by which results must refer to it all the same.
    theirs = {uid for image in facts.images for _, uid in _uids(image.source)}
    for keyword, uid in _uids(dataset):
        valid = uid in theirs or UID(uid, validation_mode=config.IGNORE).is_valid
        require(valid, f"{keyword} must hold valid UIDs (PS3.5 9.1)")
    meta = dataset.file_meta
    require(
        meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        and meta.MediaStorageSOPClassUID == dataset.SOPClassUID,
        "the file meta information must name the same object",
    )
    require(
        meta.TransferSyntaxUID == ExplicitVRLittleEndian,
        "TransferSyntaxUID must be Explicit VR Little Endian",
    )
    instances = [image.instance for image in facts.images]
    taken = {instance.sop_instance_uid for instance in instances}
    taken |= {instance.series_instance_uid for instance in instances}
    taken.add(facts.request.study_instance_uid)
    if facts.request.predecessor:
        taken |= {facts.request.predecessor.sop_instance_uid, facts.request.predecessor.series_instance_uid}
    new = [dataset.SOPInstanceUID, dataset.SeriesInstanceUID]
    require(
        len(set(new)) == 2 and not taken.intersection(new), "SOPInstanceUID and SeriesInstanceUID must be new"
    )


def _uids(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Every UID of a data set, with the keyword of its attribute."""
    for element in dataset.iterall():
        if element.VR == "UI" and element.value:
            for uid in [element.value] if isinstance(element.value, str) else element.value:
                yield element.keyword, str(uid)


def _check_report(dataset: Dataset, facts: ReportFacts) -> None:
    outcome = facts.outcome
    # Not from facts.gaps, from which the flag was made.
    complete = all(image.finding for image in facts.images) and not facts.request.missing_images
    flags = {**_REPORT_VALUES, "CompletionFlag": "COMPLETE" if complete else "PARTIAL"}
    for keyword, value in flags.items():
        require(dataset.get(keyword) == value, f"{keyword} must be {value}")
    require("ReferencedPerformedProcedureStepSequence" in dataset, "MPPS reference must be present")
    require(
        bool(dataset.get("PredecessorDocumentsSequence")) == (facts.request.predecessor is not None),
        "PredecessorDocumentsSequence must be present in amended reports and only there",
    )
    for item in _items(dataset):
        _check_item(dataset, item)
    _check_references(dataset, facts)
    title = _value(dataset, "ConceptNameCodeSequence")
    template = "2000" if outcome is Outcome.FAILED else "1500"
    require(_template(dataset) == template, f"the report must be of template {template} of DCMR")
    if outcome is Outcome.FAILED:
        require(title == "18748-4", "a report without findings must be titled (18748-4, LN)")
        texts = _named(dataset, "121073")
    else:
        require(title == "126000", "a report with findings must be titled (126000, DCM)")
        require(bool(_named(dataset, content.COMMENT.value)), "the label must be in a Comment")
        _check_groups(dataset, facts)
        texts = [item for item in dataset.ContentSequence if item.RelationshipType == "CONTAINS"][:1]
        require(_is_named(texts, content.SUMMARY.value), "the Summary must be the first content")
    require(bool(texts) and bool(texts[0].get("TextValue")), "a report must begin with its summary")
    phrase = {
        Outcome.FAILED: "NOT ANALYZED",
        Outcome.NEGATIVE: facts.request.model.negative_phrase,
        Outcome.POSITIVE: facts.request.model.positive_phrase,
    }[outcome]
    require(phrase in str(texts[0].TextValue), f"the summary must say {phrase!r}")


def _check_item(dataset: Dataset, item: Dataset) -> None:
    kind, name = str(item.get("ValueType")), _value(item, "ConceptNameCodeSequence")
    require(kind in _ITEM_VALUES, f"a content item has the unexpected ValueType {kind}")
    require(bool(name), f"a {kind} item must have a ConceptNameCodeSequence")
    codes = [*item.ConceptNameCodeSequence, *(item.get("ConceptCodeSequence") or [])]
    require(all(code.get("CodeMeaning") for code in codes), f"codes of {name} must have a CodeMeaning")
    require(bool(item.get(_ITEM_VALUES[kind])), f"{kind} item {name} must have a {_ITEM_VALUES[kind]}")
    root = item is dataset
    require(root or bool(item.get("RelationshipType")), f"item {name} must have a RelationshipType")
    if kind == "CONTAINER":
        require(item.ContinuityOfContent == "SEPARATE", "ContinuityOfContent must be SEPARATE")
        require(bool(item.get("ContentSequence")), f"container {name} must not be empty")


def _check_references(dataset: Dataset, facts: ReportFacts) -> None:
    images = {(i.instance.sop_class_uid, i.instance.sop_instance_uid) for i in facts.images}
    for item in _items(dataset):
        for reference in item.get("ReferencedSOPSequence") or []:
            named = (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID)
            require(named in images, "ReferencedSOPSequence must name images of the study")
    listed = [
        (series.SeriesInstanceUID, reference.ReferencedSOPInstanceUID)
        for study in dataset.get("CurrentRequestedProcedureEvidenceSequence") or []
        if study.StudyInstanceUID == facts.request.study_instance_uid
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]
    expected = [(i.instance.series_instance_uid, i.instance.sop_instance_uid) for i in facts.images]
    fits = sorted(listed) == sorted(expected)
    require(fits, "CurrentRequestedProcedureEvidenceSequence must list each image of the study once")


def _check_groups(dataset: Dataset, facts: ReportFacts) -> None:
    """Each region and each analyzed image has a group; OHIF and Stone draw them by these rules."""
    images = {image.instance.sop_instance_uid: image for image in facts.images if image.finding}
    groups = _named(dataset, content.MEASUREMENT_GROUP.value)
    tracked = [item.UID for group in groups for item in _named(group, content.TRACKING_UID.value)]
    require(len(tracked) == len(set(tracked)) == len(groups), "each group needs its own tracking UID")
    whole = []
    for group in groups:
        image = _check_coordinates(group, images)
        template = _template(group)
        require(template in ("1410", "1501"), "a group must be of TID 1410 or 1501")
        if template == "1501":
            whole.append(image.instance.sop_instance_uid)
        _check_statement(group, image, template)
    require(sorted(whole) == sorted(images), "each analyzed image needs one TID 1501 group")
    regions = sum(len(image.finding.regions) for image in images.values() if image.finding)
    require(len(groups) == len(whole) + regions, "each region needs one TID 1410 group")


def _check_coordinates(group: Dataset, images: dict[str, ImageFacts]) -> ImageFacts:
    coordinates = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
    require(len(coordinates) == 1, "each group needs one SCOORD, or OHIF opens a black page")
    scoord = coordinates[0]
    require(_is_named([scoord], content.IMAGE_REGION.value), "a SCOORD must be named (111030, DCM)")
    selected = scoord.get("ContentSequence") or []
    require(
        len(selected) == 1
        and selected[0].RelationshipType == "SELECTED FROM"
        and _is_named(selected, content.ORIGINAL_SOURCE.value),
        "a SCOORD must be SELECTED FROM one (111040, DCM) image, or Stone draws nothing",
    )
    uid = str(selected[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    require(uid in images, "a SCOORD must be selected from an analyzed image")
    header, points = images[uid].source, list(scoord.GraphicData)
    inside = [0 <= x <= header.Columns for x in points[::2]] + [0 <= y <= header.Rows for y in points[1::2]]
    require(all(inside), "GraphicData must lie inside of the image")
    require(scoord.GraphicType in ("POINT", "POLYLINE"), "a SCOORD must be a POINT or a POLYLINE")
    if scoord.GraphicType == "POLYLINE":
        closed = len(points) >= 8 and points[:2] == points[-2:]
        require(closed, "a POLYLINE must be closed and have three corners or more")
    return images[uid]


def _check_statement(group: Dataset, image: ImageFacts, template: str) -> None:
    """A group must state the model's answer, and a negative group must not name a Finding."""
    finding = image.finding
    if finding is None:  # not among the images that coordinates may be selected from
        return
    named = bool(_named(group, content.FINDING.value))
    require(named == finding.positive, "a Finding item must be in positive groups and only there")
    concept = content.CERTAINTY if finding.positive else content.PROBABILITY
    numbers = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    require(
        len(numbers) == 1 and _is_named(numbers, concept.value),
        f"a group's number must be ({concept.value}, DCM)",
    )
    percent = float(numbers[0].MeasuredValueSequence[0].NumericValue)
    require(abs(percent - finding.probability * 100) < 0.006, "a group's number must be the model's")
    if template == "1501":
        verdict = content.PRESENT if finding.positive else content.ABSENT
        codes = [
            _value(item, "ConceptCodeSequence") for item in group.ContentSequence if item.ValueType == "CODE"
        ]
        other = content.ABSENT if finding.positive else content.PRESENT
        fits = verdict.value in codes and other.value not in codes
        require(fits, f"a {'positive' if finding.positive else 'negative'} image must say so")


def _items(item: Dataset) -> Iterator[Dataset]:
    yield item
    for child in item.get("ContentSequence") or []:
        yield from _items(child)


def _named(item: Dataset, code: str) -> list[Dataset]:
    return [child for child in _items(item) if _value(child, "ConceptNameCodeSequence") == code]


def _is_named(items: list[Dataset], code: str) -> bool:
    return bool(items) and _value(items[0], "ConceptNameCodeSequence") == code


def _template(item: Dataset) -> str:
    """The template of DCMR that an item names."""
    template = (item.get("ContentTemplateSequence") or [Dataset()])[0]
    return str(template.get("TemplateIdentifier")) if template.get("MappingResource") == "DCMR" else ""


def _value(item: Dataset, keyword: str) -> str:
    sequence = item.get(keyword) or [Dataset()]
    return str(sequence[0].get("CodeValue") or "")


def _check_capture(dataset: Dataset, facts: ReportFacts) -> None:
    for keyword, value in _CAPTURE_VALUES.items():
        require(dataset.get(keyword) == value, f"{keyword} must be {value}")
    for keyword in _SPACINGS:
        require(keyword not in dataset, f"{keyword} must be absent: it is not for measuring")
    image = _source(dataset, facts)
    header = image.source
    longest = max(dataset.Rows, dataset.Columns)
    require(
        (dataset.Rows, dataset.Columns) == sc.size(header, longest),
        "Rows and Columns must have the aspect of the source image",
    )
    length = dataset.Rows * dataset.Columns * 3
    require(len(dataset.PixelData) == length + length % 2, "PixelData must fill Rows and Columns")
    expected = {
        "InstanceNumber": source.number(header, "InstanceNumber"),
        "PatientOrientation": source.orientation(header) or None,
        "BodyPartExamined": source.body_part_examined(header) or None,
    }
    for keyword, value in expected.items():
        stated = dataset.get(keyword)
        same = (list(stated or []) or None) == value if keyword == "PatientOrientation" else stated == value
        require(same, f"{keyword} must be that of the source image")
    require(dataset.get("ImageLaterality") == image.side, "ImageLaterality must be that of the source image")
    require(not dataset.get("Laterality"), "Laterality must not be stated for a whole series")
    stated = header.get("BurnedInAnnotation")
    require(
        dataset.get("BurnedInAnnotation") == (stated if stated in ("YES", "NO") else None),
        "BurnedInAnnotation must be YES or NO where the source says so, else absent",
    )
    require(dataset.get("ImageType", [])[:1] == ["DERIVED"], "ImageType must be DERIVED")


def _source(dataset: Dataset, facts: ReportFacts) -> ImageFacts:
    """The image from which a capture was made, as it states."""
    references = dataset.get("SourceImageSequence") or []
    require(len(references) == 1, "SourceImageSequence must name one image")
    purpose = references[0].get("PurposeOfReferenceCodeSequence") or [Dataset()]
    require(purpose[0].get("CodeValue") == "121322", "PurposeOfReferenceCodeSequence must be (121322, DCM)")
    named = (references[0].get("ReferencedSOPClassUID"), references[0].get("ReferencedSOPInstanceUID"))
    images = [i for i in facts.images if named == (i.instance.sop_class_uid, i.instance.sop_instance_uid)]
    require(len(images) == 1, "SourceImageSequence must name an image of the study")
    require(images[0].finding is not None, "SourceImageSequence must name an analyzed image")
    return images[0]
