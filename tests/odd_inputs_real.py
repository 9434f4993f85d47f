"""Files of real devices, from `dicom/` of the test data: what is odd about each, and what the node does."""

from __future__ import annotations

from pathlib import Path

from odd_inputs import Case

NOT_XRAY = "skipped: not an X-ray image: "
FILES = {
    "CR-ModalitySequenceLUT.dcm": ("CR with a modality LUT and a UID of an invalid root", "..."),
    "NM_Kakadu44_SOTmarkerincons.dcm": ("JPEG 2000 of an encoder with an inconsistent tile marker", "..."),
    "OutOfBoundsOverlay.dcm": ("an overlay larger than the image", "..."),
    "RG1_J2KI.dcm": ("CR in lossy JPEG 2000", "..."),
    "RG2_JLSL.dcm": ("CR in JPEG-LS", "..."),
    "RG2_JLSN.dcm": ("CR in near-lossless JPEG-LS", "..."),
    "RG2_JPLL.dcm": ("CR in lossless JPEG", "..."),
    "RG2_JPLY.dcm": ("CR in JPEG of 12 bits", "..."),
    "RG2_JPLY_fixed.dcm": ("the same, its header mended", "..."),
    "RG3_J2KI.dcm": ("CR in lossy JPEG 2000", "..."),
    "RG3_J2KR.dcm": ("CR in lossless JPEG 2000", "..."),
    "bad_sequence.dcm": ("a sequence that ends wrongly", "..."),
    "dx_image.dcm": ("a small DX", "..."),
    "emri_small_jpeg_2k_lossless_too_short.dcm": ("compressed pixel data that ends too early", "..."),
    "liver_deflate.dcm": ("a deflated segmentation", "..."),
    "liver_expb.dcm": ("a big-endian segmentation", "..."),
    "mlut_18.dcm": ("a modality LUT", "..."),
    "vlut_04.dcm": ("a VOI LUT", "..."),
}


def cases(folder: Path) -> list[Case]:
    """One for each file; the folder is not read yet."""
    return [
        Case(name, why, (folder / name).read_bytes, does, shows=None, dcmtk=None)
        for name, (why, does) in FILES.items()
    ]
