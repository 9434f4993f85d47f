"""The rules of Secondary Captures."""

from __future__ import annotations

from pydicom.dataset import Dataset

from pacs_node.records import ImageResult, ReportRequest
from pacs_node.report import sc, source
from pacs_node.report.rule import require

_FIXED = {
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


def verify(dataset: Dataset, request: ReportRequest) -> None:
    """Check a Secondary Capture made for one of the request's images. Raises CheckError."""
    for keyword, value in _FIXED.items():
        require(dataset.get(keyword) == value, dataset, f"{keyword} must be {value}")
    for keyword in _SPACINGS:
        require(keyword not in dataset, dataset, f"{keyword} must be absent: it is not for measuring")
    image = _source(dataset, request)
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
        dataset.get("ImageLaterality") == source.side(request, image),
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


def _source(dataset: Dataset, request: ReportRequest) -> ImageResult:
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
    images = [i for i in request.images if named == (i.instance.sop_class_uid, i.instance.sop_instance_uid)]
    require(len(images) == 1, dataset, "SourceImageSequence must name an image of the study")
    require(images[0].finding is not None, dataset, "SourceImageSequence must name an analyzed image")
    return images[0]
