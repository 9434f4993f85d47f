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
    _check_identity(dataset, facts)
    _check_uids(dataset, facts)
    if dataset.SOPClassUID in (ComprehensiveSRStorage, Comprehensive3DSRStorage):
        _check_report(dataset, facts)
    elif dataset.SOPClassUID == SecondaryCaptureImageStorage:
        _check_capture(dataset, facts)
    else:
        require(False, dataset, "SOPClassUID must be that of a Structured Report or a Secondary Capture")


def require(kept: bool, dataset: Dataset, rule: str) -> None:
    """Raise CheckError with the object's UID and the rule unless it is kept."""
    if not kept:
        raise CheckError(f"{dataset.get('SOPInstanceUID') or 'an object without SOPInstanceUID'}: {rule}")


def _check_identity(dataset: Dataset, facts: ReportFacts) -> None:
    for keyword in _TYPE_1:
        require(dataset.get(keyword) not in (None, ""), dataset, f"{keyword} must have a value")
    for keyword in source.TYPE_2:
        require(keyword in dataset, dataset, f"{keyword} must be present, if only empty")
    header = facts.newest
    for keyword in _IDENTITY:
        ours, theirs = str(dataset.get(keyword) or ""), str(header.get(keyword) or "")
        require(ours == theirs, dataset, f"{keyword} must be that of the source image")
    require(
        dataset.StudyInstanceUID == facts.request.study_instance_uid,
        dataset,
        "StudyInstanceUID must be that of the study",
    )
    require(
        dataset.get("DeviceUID") == facts.request.node.device_uid, dataset, "DeviceUID must be the node's"
    )
    description = str(dataset.get("SeriesDescription") or "")
    require(0 < len(description) <= 64, dataset, "SeriesDescription must have 1 to 64 characters")
    require("AI" in description, dataset, "SeriesDescription must say that an AI speaks")


def _check_uids(dataset: Dataset, facts: ReportFacts) -> None:
    # A source may state UIDs that are not valid, and must be referred to by them all the same.
    theirs = {uid for image in facts.images for _, uid in _uids(image.source)}
    for keyword, uid in _uids(dataset):
        valid = uid in theirs or UID(uid, validation_mode=config.IGNORE).is_valid
        require(valid, dataset, f"{keyword} must hold valid UIDs (PS3.5 9.1)")
    meta = dataset.file_meta
    require(
        meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        and meta.MediaStorageSOPClassUID == dataset.SOPClassUID,
        dataset,
        "the file meta information must name the same object",
    )
    require(
        meta.TransferSyntaxUID == ExplicitVRLittleEndian,
        dataset,
        "TransferSyntaxUID must be Explicit VR Little Endian",
    )
    instances = [image.instance for image in facts.images]
    taken = {instance.sop_instance_uid for instance in instances}
    taken |= {instance.series_instance_uid for instance in instances}
    taken.add(facts.request.study_instance_uid)
    if facts.request.predecessor:
        taken |= {facts.request.predecessor.sop_instance_uid, facts.request.predecessor.series_instance_uid}
    ours = [dataset.SOPInstanceUID, dataset.SeriesInstanceUID]
    require(
        len(set(ours)) == 2 and not taken.intersection(ours),
        dataset,
        "SOPInstanceUID and SeriesInstanceUID must be new",
    )


def _uids(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Every UID in it, with the keyword of its attribute."""
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
        require(dataset.get(keyword) == value, dataset, f"{keyword} must be {value}")
    require("ReferencedPerformedProcedureStepSequence" in dataset, dataset, "MPPS reference must be present")
    require(
        bool(dataset.get("PredecessorDocumentsSequence")) == (facts.request.predecessor is not None),
        dataset,
        "PredecessorDocumentsSequence must be present in amended reports and only there",
    )
    for item in _items(dataset):
        _check_item(dataset, item)
    _check_references(dataset, facts)
    title = _value(dataset, "ConceptNameCodeSequence")
    template = "2000" if outcome is Outcome.FAILED else "1500"
    require(_template(dataset) == template, dataset, f"the report must be of template {template} of DCMR")
    if outcome is Outcome.FAILED:
        require(title == "18748-4", dataset, "a report without findings must be titled (18748-4, LN)")
        texts = _named(dataset, "121073")
    else:
        require(title == "126000", dataset, "a report with findings must be titled (126000, DCM)")
        require(bool(_named(dataset, content.COMMENT.value)), dataset, "the label must be in a Comment")
        _check_groups(dataset, facts)
        texts = [item for item in dataset.ContentSequence if item.RelationshipType == "CONTAINS"][:1]
        require(_is_named(texts, content.SUMMARY.value), dataset, "the Summary must be the first content")
    require(bool(texts) and bool(texts[0].get("TextValue")), dataset, "a report must begin with its summary")
    phrase = {
        Outcome.FAILED: "NOT ANALYZED",
        Outcome.NEGATIVE: facts.request.model.negative_phrase,
        Outcome.POSITIVE: facts.request.model.positive_phrase,
    }[outcome]
    require(phrase in str(texts[0].TextValue), dataset, f"the summary must say {phrase!r}")


def _check_item(dataset: Dataset, item: Dataset) -> None:
    kind, name = str(item.get("ValueType")), _value(item, "ConceptNameCodeSequence")
    require(
        kind in _ITEM_VALUES, dataset, f"a content item has the ValueType {kind}, which no report of ours has"
    )
    require(bool(name), dataset, f"a {kind} item must have a ConceptNameCodeSequence")
    codes = [*item.ConceptNameCodeSequence, *(item.get("ConceptCodeSequence") or [])]
    require(
        all(code.get("CodeMeaning") for code in codes), dataset, f"codes of {name} must have a CodeMeaning"
    )
    require(
        bool(item.get(_ITEM_VALUES[kind])), dataset, f"{kind} item {name} must have a {_ITEM_VALUES[kind]}"
    )
    root = item is dataset
    require(root or bool(item.get("RelationshipType")), dataset, f"item {name} must have a RelationshipType")
    if kind == "CONTAINER":
        require(item.ContinuityOfContent == "SEPARATE", dataset, "ContinuityOfContent must be SEPARATE")
        require(bool(item.get("ContentSequence")), dataset, f"container {name} must not be empty")


def _check_references(dataset: Dataset, facts: ReportFacts) -> None:
    ours = {(i.instance.sop_class_uid, i.instance.sop_instance_uid) for i in facts.images}
    for item in _items(dataset):
        for reference in item.get("ReferencedSOPSequence") or []:
            named = (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID)
            require(named in ours, dataset, "ReferencedSOPSequence must name images of the study")
    listed = [
        (series.SeriesInstanceUID, reference.ReferencedSOPInstanceUID)
        for study in dataset.get("CurrentRequestedProcedureEvidenceSequence") or []
        if study.StudyInstanceUID == facts.request.study_instance_uid
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]
    images = [(i.instance.series_instance_uid, i.instance.sop_instance_uid) for i in facts.images]
    fits = sorted(listed) == sorted(images)
    require(fits, dataset, "CurrentRequestedProcedureEvidenceSequence must list each image of the study once")


def _check_groups(dataset: Dataset, facts: ReportFacts) -> None:
    """Each region and each analyzed image has a group; OHIF and Stone draw them by these rules."""
    images = {image.instance.sop_instance_uid: image for image in facts.images if image.finding}
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


def _check_coordinates(dataset: Dataset, group: Dataset, images: dict[str, ImageFacts]) -> ImageFacts:
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


def _check_statement(dataset: Dataset, group: Dataset, image: ImageFacts, template: str) -> None:
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


def _check_capture(dataset: Dataset, facts: ReportFacts) -> None:
    for keyword, value in _CAPTURE_VALUES.items():
        require(dataset.get(keyword) == value, dataset, f"{keyword} must be {value}")
    for keyword in _SPACINGS:
        require(keyword not in dataset, dataset, f"{keyword} must be absent: it is not for measuring")
    image = _source(dataset, facts)
    header = image.source
    longest = max(dataset.Rows, dataset.Columns)
    require(
        (dataset.Rows, dataset.Columns) == sc.size(header, longest),
        dataset,
        "Rows and Columns must have the aspect of the source image",
    )
    length = dataset.Rows * dataset.Columns * 3
    require(len(dataset.PixelData) == length + length % 2, dataset, "PixelData must fill Rows and Columns")
    expected = {
        "InstanceNumber": source.number(header, "InstanceNumber"),
        "PatientOrientation": source.orientation(header) or None,
        "BodyPartExamined": source.body_part_examined(header) or None,
    }
    for keyword, theirs in expected.items():
        ours = dataset.get(keyword)
        same = (list(ours or []) or None) == theirs if keyword == "PatientOrientation" else ours == theirs
        require(same, dataset, f"{keyword} must be that of the source image")
    require(
        dataset.get("ImageLaterality") == image.side,
        dataset,
        "ImageLaterality must be that of the source image",
    )
    require(not dataset.get("Laterality"), dataset, "Laterality must not be stated for a whole series")
    stated = header.get("BurnedInAnnotation")
    require(
        dataset.get("BurnedInAnnotation") == (stated if stated in ("YES", "NO") else None),
        dataset,
        "BurnedInAnnotation must be YES or NO where the source says so, else absent",
    )
    require(dataset.get("ImageType", [])[:1] == ["DERIVED"], dataset, "ImageType must be DERIVED")


def _source(dataset: Dataset, facts: ReportFacts) -> ImageFacts:
    """The image that it says it was made from."""
    references = dataset.get("SourceImageSequence") or []
    require(len(references) == 1, dataset, "SourceImageSequence must name one image")
    purpose = references[0].get("PurposeOfReferenceCodeSequence") or [Dataset()]
    require(
        purpose[0].get("CodeValue") == "121322",
        dataset,
        "PurposeOfReferenceCodeSequence must be (121322, DCM)",
    )
    named = (references[0].get("ReferencedSOPClassUID"), references[0].get("ReferencedSOPInstanceUID"))
    images = [i for i in facts.images if named == (i.instance.sop_class_uid, i.instance.sop_instance_uid)]
    require(len(images) == 1, dataset, "SourceImageSequence must name an image of the study")
    require(images[0].finding is not None, dataset, "SourceImageSequence must name an analyzed image")
    return images[0]
