"""Body part and laterality of an image, in words and SNOMED CT codes.

The codes are those of PS3.16 CID 4031 (Common Anatomic Regions) for the skeletal terms of BodyPartExamined
(PS3.16 Annex L). Other terms keep their own word and get no code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

Side = Literal["L", "R", "B"]

NOT_STATED = "body part not stated"
SIDES: dict[Side, str] = {"L": "left", "R": "right", "B": "bilateral"}
SIDE_CODES: dict[Side, Code] = {
    "L": Code("7771000", "SCT", "Left"),
    "R": Code("24028007", "SCT", "Right"),
    "B": Code("51440002", "SCT", "Bilateral"),
}

_SITES: dict[str, tuple[str, str]] = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "ABDOMENPELVIS": ("818982008", "Abdomen and Pelvis"),
    "ACJOINT": ("85856004", "Acromioclavicular joint"),
    "ANKLE": ("70258002", "Ankle joint"),
    "ARM": ("40983000", "Upper arm"),
    "BREAST": ("76752008", "Breast"),
    "CALCANEUS": ("80144004", "Calcaneus"),
    "CHEST": ("816094009", "Chest"),
    "CLAVICLE": ("51299004", "Clavicle"),
    "COCCYX": ("64688005", "Coccyx"),
    "CSPINE": ("122494005", "Cervical spine"),
    "CTSPINE": ("1217257000", "Cervico-thoracic spine"),
    "ELBOW": ("16953009", "Elbow joint"),
    "EXTREMITY": ("66019005", "Extremity"),
    "FEMUR": ("71341001", "Femur"),
    "FIBULA": ("87342007", "Fibula"),
    "FINGER": ("7569003", "Finger"),
    "FOOT": ("56459004", "Foot"),
    "FOREARM": ("14975008", "Forearm"),
    "HAND": ("85562004", "Hand"),
    "HEAD": ("69536005", "Head"),
    "HIP": ("24136001", "Hip joint"),
    "HUMERUS": ("85050009", "Humerus"),
    "JAW": ("661005", "Jaw region"),
    "KNEE": ("72696002", "Knee"),
    "LEG": ("30021000", "Lower leg"),
    "LSPINE": ("122496007", "Lumbar spine"),
    "LSSPINE": ("1217253001", "Lumbo-sacral spine"),
    "MANDIBLE": ("91609006", "Mandible"),
    "MAXILLA": ("70925003", "Maxilla"),
    "NECK": ("45048000", "Neck"),
    "NOSE": ("74386004", "Nasal bone"),
    "PATELLA": ("64234005", "Patella"),
    "PELVIS": ("816092008", "Pelvis"),
    "RADIUS": ("62413002", "Radius"),
    "RIB": ("113197003", "Rib"),
    "SACRUM": ("54735007", "Sacrum"),
    "SCAPULA": ("79601000", "Scapula"),
    "SHOULDER": ("16982005", "Shoulder"),
    "SIJOINT": ("39723000", "Sacroiliac joint"),
    "SKULL": ("89546000", "Skull"),
    "SPINE": ("421060004", "Spine"),
    "STERNUM": ("56873002", "Sternum"),
    "THIGH": ("68367000", "Thigh"),
    "THUMB": ("76505004", "Thumb"),
    "TIBIA": ("12611008", "Tibia"),
    "TLSPINE": ("1217256009", "Thoraco-lumbar spine"),
    "TMJ": ("53620006", "Temporomandibular joint"),
    "TOE": ("29707007", "Toe"),
    "TSPINE": ("122495006", "Thoracic spine"),
    "ULNA": ("23416004", "Ulna"),
    "WRIST": ("74670003", "Wrist joint"),
    "ZYGOMA": ("13881006", "Zygoma"),
}


_UNPAIRED = {"CHEST", "COCCYX", "CSPINE", "CTSPINE", "HEAD", "JAW", "LSPINE", "LSSPINE", "MANDIBLE", "NOSE"}
_UNPAIRED |= {"ABDOMEN", "ABDOMENPELVIS", "NECK"}
_UNPAIRED |= {"PELVIS", "SACRUM", "SKULL", "SPINE", "STERNUM", "TLSPINE", "TSPINE"}


def defined_term(header: Dataset) -> str | None:
    """The body part as a term of PS3.16 Annex L; None if absent or not in the table.

    From BodyPartExamined, else from the code of AnatomicRegionSequence.
    """
    if term := _term(header):
        return term if term in _SITES else None
    stated = site(header)
    return next((term for term, (code, _) in _SITES.items() if stated and code == stated.value), None)


def unpaired(header: Dataset) -> bool:
    """Whether BodyPartExamined is a part without sides."""
    return _term(header) in _UNPAIRED


def site(header: Dataset) -> Code | None:
    """SNOMED CT code of the body part: AnatomicRegionSequence, else BodyPartExamined; None if unknown."""
    region = (header.get("AnatomicRegionSequence") or [None])[0]
    if region is not None and region.get("CodingSchemeDesignator") == "SCT" and region.get("CodeValue"):
        return Code(str(region.CodeValue), "SCT", str(region.get("CodeMeaning") or "Anatomic region")[:64])
    known = _SITES.get(_term(header))
    return Code(known[0], "SCT", known[1]) if known else None


def body_part(header: Dataset) -> str:
    """The body part in lower-case words such as "wrist", or "" if the image states none."""
    term = _term(header)
    if term in _SITES:
        return _SITES[term][1].lower().removesuffix(" joint")
    if term:
        return " ".join(str(header.BodyPartExamined).replace("_", " ").lower().split())
    region = (header.get("AnatomicRegionSequence") or [None])[0]
    words = str(region.get("CodeMeaning") or "") if region is not None else ""
    return " ".join(words.lower().split()).removesuffix(" joint")


def laterality(header: Dataset, others: Iterable[Dataset] = ()) -> Side | None:
    """The side of an image: "L", "R", "B" (both), or None if unpaired, not stated or contradictory.

    Sources are ImageLaterality, FrameLaterality and the series' Laterality. They must agree in the image; the
    series' Laterality counts only if the other images of the series, among `others`, agree.
    """
    image = {str(header.get("ImageLaterality") or "")}
    for group in header.get("SharedFunctionalGroupsSequence") or []:
        for frame in group.get("FrameAnatomySequence") or []:
            image.add(str(frame.get("FrameLaterality") or ""))
    series = {str(header.get("Laterality") or "")}
    stated = (image | series) - {""}
    if not image - {""}:
        series.update(
            str(other.get("Laterality") or "")
            for other in others
            if other.get("SeriesInstanceUID") == header.get("SeriesInstanceUID")
        )
        stated = series - {""}
    if len(stated) != 1:
        return None
    only = stated.pop()
    return next((side for side in SIDES if side == only), None)


def place(header: Dataset, side: Side | None) -> str:
    """The body part and its side in words: "left wrist", "pelvis", or "body part not stated"."""
    part = body_part(header) or NOT_STATED
    if side is None:
        return part
    return f"{SIDES[side]}, {part}" if part == NOT_STATED else f"{SIDES[side]} {part}"


def _term(header: Dataset) -> str:
    """BodyPartExamined without spaces, underscores and hyphens, as in "C SPINE"."""
    stated = str(header.get("BodyPartExamined") or "").upper()
    return stated.replace("_", "").replace(" ", "").replace("-", "")
