"""Files of real devices in `dicom/` of the test data: why each is odd, and the expected outcome."""

from __future__ import annotations

from pathlib import Path

from support.odd_inputs.corpus import UIDS, Case

NOT_XRAY = "skipped: not an X-ray image: "
FILES = {
    "CR-ModalitySequenceLUT.dcm": ("CR with a modality LUT and a UID of an invalid root", "analyzed"),
    "NM_Kakadu44_SOTmarkerincons.dcm": (
        "JPEG 2000 of an encoder with an inconsistent tile marker",
        "analyzed",
    ),
    "OutOfBoundsOverlay.dcm": (
        "an overlay larger than the image",
        NOT_XRAY + "Digital Mammography X-Ray Image Storage - For Presentation",
    ),
    "RG1_J2KI.dcm": ("CR in lossy JPEG 2000", "analyzed"),
    "RG2_JLSL.dcm": ("CR in JPEG-LS", "analyzed"),
    "RG2_JLSN.dcm": ("CR in near-lossless JPEG-LS", "analyzed"),
    "RG2_JPLL.dcm": ("CR in lossless JPEG", "analyzed"),
    "RG2_JPLY.dcm": ("CR in JPEG of 12 bits", "analyzed"),
    "RG2_JPLY_fixed.dcm": ("the same, its header mended", "analyzed"),
    "RG3_J2KI.dcm": ("CR in lossy JPEG 2000", "analyzed"),
    "RG3_J2KR.dcm": ("CR in lossless JPEG 2000", "analyzed"),
    "bad_sequence.dcm": ("a sequence that ends wrongly", NOT_XRAY + "CT Image Storage"),
    "dx_image.dcm": ("a small DX", "analyzed"),
    "emri_small_jpeg_2k_lossless_too_short.dcm": (
        "compressed pixel data that ends too early",
        NOT_XRAY + "Enhanced MR Image Storage",
    ),
    "liver_deflate.dcm": ("a deflated segmentation", NOT_XRAY + "Segmentation Storage"),
    "liver_expb.dcm": ("a big-endian segmentation", NOT_XRAY + "Segmentation Storage"),
    "mlut_18.dcm": ("a modality LUT", NOT_XRAY + "Secondary Capture Image Storage"),
    "vlut_04.dcm": ("a VOI LUT", NOT_XRAY + "Secondary Capture Image Storage"),
}


def cases(folder: Path) -> list[Case]:
    """A case for each file; the files are read only when the case is run."""
    return [
        Case(
            name,
            why,
            (folder / name).read_bytes,
            does,
            shows=None,
            dcmtk=None,
            invalid=UIDS if name == "CR-ModalitySequenceLUT.dcm" else (),
        )
        for name, (why, does) in FILES.items()
    ]
