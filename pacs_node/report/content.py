"""The content items of a report, built from highdicom's value types: TID 1500 with its groups, and TID 2000.

highdicom's templates are not used: they write a source concept that Stone does not draw and CONTINUOUS
containers that make dsr2html drop every concept name, refuse a report without measurements, and know no
Qualitative Evaluations. The order of the items is that of the templates (PS3.16 Annex A).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    FindingSite,
    GraphicTypeValues,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    ScoordContentItem,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.sr.coding import Code

from pacs_node import __version__
from pacs_node.dicom import anatomy
from pacs_node.records import (
    PERCENTILES_SHOW_MORE,
    Finding,
    ImageResult,
    ModelIdentity,
    Outcome,
    Point,
    Region,
)
from pacs_node.report import source, uids
from pacs_node.report.facts import ImageFacts, ReportFacts, printable

MANUFACTURER = "pacs-node"
FINDING = Code("121071", "DCM", "Finding")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
PROBABILITY = Code("122157", "DCM", "Probability")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
MEASURED_FROM = Code("121112", "DCM", "Source of Measurement")
ORIGINAL_SOURCE = Code("111040", "DCM", "Original Source")
SUMMARY = Code("121111", "DCM", "Summary")
COMMENT = Code("121106", "DCM", "Comment")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("272519000", "SCT", "Absent")
CAD_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")

_PERCENT = Code("%", "UCUM", "percent")
_PIXELS = Code("{pixels}", "UCUM", "Pixels")
_MM = Code("mm", "UCUM", "mm")
_MODALITIES = {
    "CR": "Computed Radiography",
    "DX": "Digital Radiography",
    "IO": "Intra-oral Radiography",
    "PX": "Panoramic X-Ray",
    "RF": "Radiofluoroscopy",
    "RG": "Radiographic imaging",
    "XA": "X-Ray Angiography",
}
"""The codes of CID 29 for X-rays; a skipped image may state anything."""
_ANCHOR = 12.5
"""Distance from the top left, in pixels, of the point of a whole image's evaluation, which marks nothing."""

_CONTAINS = RelationshipTypeValues.CONTAINS
_MODIFIES = RelationshipTypeValues.HAS_CONCEPT_MOD
_OBSERVES = RelationshipTypeValues.HAS_OBS_CONTEXT
_ACQUIRES = RelationshipTypeValues.HAS_ACQ_CONTEXT


def measurement_report(facts: ReportFacts) -> ContainerContentItem:
    """TID 1500: summary, image library, a group for each region and each analyzed image, evaluations."""
    regions = [
        item
        for image in facts.images
        if image.finding
        for item in _region_groups(facts, image, image.finding)
    ]
    whole = [_image_group(facts, image, image.finding) for image in facts.images if image.finding]
    procedure = Code("363679005", "SCT", "Imaging procedure")
    return _container(
        Code("126000", "DCM", "Imaging Measurement Report"),
        [
            *_language_and_observer(facts),
            CodeContentItem(Code("121058", "DCM", "Procedure reported"), procedure, _MODIFIES),
            TextContentItem(SUMMARY, facts.summary, _CONTAINS),
            _image_library(facts),
            _container(Code("126010", "DCM", "Imaging Measurements"), [*regions, *whole], _CONTAINS),
            _qualitative_evaluations(facts),
        ],
        template="1500",
    )


def failure_report(facts: ReportFacts) -> ContainerContentItem:
    """TID 2000: no image was analyzed, and why; a text that viewers show, without measurements."""
    impression = Code("121073", "DCM", "Impression")
    texts = (facts.summary, *_failures(facts))
    none = CodeContentItem(
        CAD_SUMMARY, Code("111245", "DCM", "No algorithms succeeded; without findings"), _CONTAINS
    )
    items = [*(TextContentItem(impression, text, _CONTAINS) for text in texts), none]
    impressions = _container(Code("121072", "DCM", "Impressions"), items, _CONTAINS)
    return _container(
        Code("18748-4", "LN", "Diagnostic Imaging Report"),
        [*_language_and_observer(facts), impressions],
        template="2000",
    )


def _failures(facts: ReportFacts) -> list[str]:
    """The images that were not analyzed, with the reasons, which may quote anything from a header."""
    return [
        f"{image.title}: NOT ANALYZED: {printable(image.failure or 'no reason is known')}"
        for image in facts.images
        if image.finding is None
    ]


def _remarks(facts: ReportFacts) -> list[str]:
    """The images that were not analyzed as their header has them displayed."""
    return [
        f"{image.title}: {PERCENTILES_SHOW_MORE}"
        for image in facts.images
        if image.finding and PERCENTILES_SHOW_MORE in image.finding.notes
    ]


def _container(
    name: Code,
    items: Sequence[ContentItem],
    relationship: RelationshipTypeValues | None = None,
    template: str | None = None,
) -> ContainerContentItem:
    container = ContainerContentItem(
        name, is_content_continuous=False, template_id=template, relationship_type=relationship
    )
    container.ContentSequence = ContentSequence(list(items))
    return container


def _language_and_observer(facts: ReportFacts) -> list[ContentItem]:
    """TID 1204 and TID 1004: English, seen by this device."""
    language = Code("121049", "DCM", "Language of Content Item and Descendants")
    device, node = f"pacs-node {__version__}", facts.request.node
    return [
        CodeContentItem(language, Code("en-US", "RFC5646", "English (United States)"), _MODIFIES),
        CodeContentItem(Code("121005", "DCM", "Observer Type"), Code("121007", "DCM", "Device"), _OBSERVES),
        UIDRefContentItem(Code("121012", "DCM", "Device Observer UID"), node.device_uid, _OBSERVES),
        TextContentItem(Code("121013", "DCM", "Device Observer Name"), node.ae_title, _OBSERVES),
        TextContentItem(Code("121014", "DCM", "Device Observer Manufacturer"), MANUFACTURER, _OBSERVES),
        TextContentItem(Code("121015", "DCM", "Device Observer Model Name"), device, _OBSERVES),
    ]


def _image_library(facts: ReportFacts) -> ContainerContentItem:
    """TID 1600: every image of the report, also those that were not analyzed."""
    images = [_library_entry(image) for image in facts.images]
    group = _container(Code("126200", "DCM", "Image Library Group"), images, _CONTAINS)
    return _container(Code("111028", "DCM", "Image Library"), [group], _CONTAINS)


def _library_entry(image: ImageResult) -> ImageContentItem:
    """TID 1601 and 1603, with the rows for which the source has a value."""
    header, instance = image.source, image.instance
    rows: list[ContentItem] = []
    if meaning := _MODALITIES.get(instance.modality.upper()):
        modality = Code(instance.modality.upper(), "DCM", meaning)
        rows.append(CodeContentItem(Code("121139", "DCM", "Modality"), modality, _ACQUIRES))
    for code, keyword in (("110910", "Rows"), ("110911", "Columns")):
        if isinstance(header.get(keyword), int):
            name = Code(code, "DCM", f"Pixel Data {keyword}")
            rows.append(NumContentItem(name, int(header[keyword].value), _PIXELS, None, _ACQUIRES))
    if orientation := source.orientation(header):
        for code, along, value in (("111044", "Row", orientation[0]), ("111043", "Column", orientation[1])):
            name = Code(code, "DCM", f"Patient Orientation {along}")
            rows.append(TextContentItem(name, str(value), _ACQUIRES))
    if spacing := source.pair(header, "ImagerPixelSpacing"):
        for code, along, width in (("111026", "Horizontal", spacing[1]), ("111066", "Vertical", spacing[0])):
            name = Code(code, "DCM", f"{along} Pixel Spacing")
            rows.append(NumContentItem(name, width, _MM, None, _ACQUIRES))
    entry = ImageContentItem(
        Code("260753009", "SCT", "Source"),
        instance.sop_class_uid,
        instance.sop_instance_uid,
        relationship_type=_CONTAINS,
    )
    if rows:
        entry.ContentSequence = ContentSequence(rows)
    return entry


def _region_groups(facts: ReportFacts, image: ImageFacts, finding: Finding) -> list[ContainerContentItem]:
    """TID 1410: the outline of each suspicious region, with the certainty of its image."""
    return [
        _container(
            MEASUREMENT_GROUP,
            [
                *_tracking(f"{image.title}: region {number + 1}", uids.tracking(facts, image, number)),
                CodeContentItem(FINDING, facts.model.finding, _CONTAINS),
                *_finding_site(image),
                *_algorithm(facts.model),
                _number(facts.model, CERTAINTY, finding, _outline(image, region, measured=True)),
                _outline(image, region),
            ],
            _CONTAINS,
            template="1410",
        )
        for number, region in enumerate(finding.regions)
    ]


def _image_group(facts: ReportFacts, image: ImageFacts, finding: Finding) -> ContainerContentItem:
    """TID 1501: whether the finding is present in one image. Absent has a probability, never a Finding.

    It carries a SCOORD instead of a plain image reference, with which OHIF opens the report as a black page.
    """
    anchor = (min(_ANCHOR, image.source.Columns / 2), min(_ANCHOR, image.source.Rows / 2))
    present = [CodeContentItem(FINDING, facts.model.finding, _CONTAINS)] if finding.positive else []
    return _container(
        MEASUREMENT_GROUP,
        [
            *_tracking(f"{image.title}: {facts.model.phrase(finding.positive)}", uids.tracking(facts, image)),
            *present,
            *_finding_site(image),
            *_algorithm(facts.model),
            _number(facts.model, CERTAINTY if finding.positive else PROBABILITY, finding),
            CodeContentItem(facts.model.finding, PRESENT if finding.positive else ABSENT, _CONTAINS),
            _coordinates(image, GraphicTypeValues.POINT, [anchor]),
        ],
        _CONTAINS,
        template="1501",
    )


def _qualitative_evaluations(facts: ReportFacts) -> ContainerContentItem:
    """Row 12 of TID 1500: how far the algorithm came, what failed and why, remarks, the label."""
    comments = (facts.settings.label, *_failures(facts), *_remarks(facts))
    partial = any(image.finding is None for image in facts.images)
    value, meaning = {
        (False, False): ("111241", "All algorithms succeeded; without findings"),
        (False, True): ("111242", "All algorithms succeeded; with findings"),
        (True, False): ("111243", "Not all algorithms succeeded; without findings"),
        (True, True): ("111244", "Not all algorithms succeeded; with findings"),
    }[partial, facts.outcome is Outcome.POSITIVE]
    return _container(
        Code("C0034375", "UMLS", "Qualitative Evaluations"),
        [
            CodeContentItem(CAD_SUMMARY, Code(value, "DCM", meaning), _CONTAINS),
            *(TextContentItem(COMMENT, text, _CONTAINS) for text in comments),
        ],
        _CONTAINS,
    )


def _tracking(identifier: str, uid: str) -> list[ContentItem]:
    """TID 1501 and 1410, rows 2 and 3. OHIF reads the UID of every group."""
    return [
        TextContentItem(Code("112039", "DCM", "Tracking Identifier"), identifier, _OBSERVES),
        UIDRefContentItem(TRACKING_UID, uid, _OBSERVES),
    ]


def _finding_site(image: ImageFacts) -> list[ContentItem]:
    """The body part, if it has a code, and its side."""
    site = anatomy.site(image.source)
    side = anatomy.SIDE_CODES[image.side] if image.side else None
    return [FindingSite(site, laterality=side)] if site else []


def _algorithm(model: ModelIdentity) -> list[ContentItem]:
    """TID 4019: the model and its operating point."""
    parameters = Code("111002", "DCM", "Algorithm Parameters")
    return [
        TextContentItem(Code("111001", "DCM", "Algorithm Name"), model.name, _MODIFIES),
        TextContentItem(Code("111003", "DCM", "Algorithm Version"), model.full_version, _MODIFIES),
        TextContentItem(parameters, model.parameters, _MODIFIES),
    ]


def _number(model: ModelIdentity, name: Code, finding: Finding, *of: ContentItem) -> NumContentItem:
    number = NumContentItem(name, round(finding.probability * 100, 2), _PERCENT, None, _CONTAINS)
    number.ContentSequence = ContentSequence([*of, *_algorithm(model)])
    return number


def _outline(image: ImageResult, region: Region, measured: bool = False) -> ScoordContentItem:
    """A region's box as a closed polyline of five points, the form that OHIF and Stone were seen to draw.

    OHIF draws that of the group, but loads as a measurement only what a number is inferred from.
    """
    rows, columns = float(image.source.Rows), float(image.source.Columns)
    left, top, right, bottom = region.box
    left, right = max(left, 0.0), min(right, columns)
    top, bottom = max(top, 0.0), min(bottom, rows)
    points = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    role = (MEASURED_FROM, RelationshipTypeValues.INFERRED_FROM) if measured else (IMAGE_REGION, _CONTAINS)
    return _coordinates(image, GraphicTypeValues.POLYLINE, points, *role)


def _coordinates(
    image: ImageResult,
    graphic: GraphicTypeValues,
    points: list[Point],
    name: Code = IMAGE_REGION,
    relationship: RelationshipTypeValues = _CONTAINS,
) -> ScoordContentItem:
    coordinates = ScoordContentItem(name, graphic, np.asarray(points), relationship_type=relationship)
    selected = ImageContentItem(
        ORIGINAL_SOURCE,
        image.instance.sop_class_uid,
        image.instance.sop_instance_uid,
        relationship_type=RelationshipTypeValues.SELECTED_FROM,
    )
    coordinates.ContentSequence = ContentSequence([selected])
    return coordinates
