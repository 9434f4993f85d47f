"""The attributes that results inherit from their source images; none is invented.

highdicom reads patient and study attributes of the source and raises on ordinary ones: a Type 2 attribute
that is absent, a PatientSex of "U", a date it cannot parse, an ISO 2022 character set. So it is given
`normalize`d headers, and `inherit` then copies the real attributes as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone

from highdicom.base import SOPClass
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, PersonName

from pacs_node.errors import InputError

UTF_8 = "ISO_IR 192"

_TYPE_1 = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""The patient and study attributes that results share with their source (PS3.3 C.7.1.1, C.7.2.1)."""


def normalize(header: Dataset) -> Dataset:
    """A copy of a source's header that highdicom accepts: the UIDs, and every Type 2 attribute empty.

    Raises InputError where a UID is missing (PS3.3 C.12.1, C.7.2.1, C.7.3.1: Type 1).
    """
    normal = Dataset()
    for keyword in _TYPE_1:
        if not header.get(keyword):
            raise InputError(f"{keyword} is missing; every image must state it")
        setattr(normal, keyword, str(header[keyword].value))
    for keyword in TYPE_2:
        setattr(normal, keyword, "")
    normal.SpecificCharacterSet = UTF_8
    return normal


def mismatches(headers: Iterable[Dataset]) -> tuple[str, ...]:
    """Keywords of the patient and study attributes in which these images differ."""
    several = list(headers)
    return tuple(
        keyword
        for keyword in (*TYPE_2, "IssuerOfPatientID")
        if len({str(header.get(keyword) or "") for header in several}) > 1
    )


def decoded(header: Dataset) -> Dataset:
    """A copy whose texts are decoded, also those of nested items, so that any character set can take them."""
    copy = deepcopy(header)
    copy.decode()
    return copy


def inherit(result: SOPClass, header: Dataset, created_at: float) -> None:
    """Give `result` the patient and study attributes of `header` as they are, and the time it was made.

    Call it last, so that it sees every text: the character set is the source's if it has every character of
    the result, else UTF-8 (PS3.3 C.12.1.1.2). TimezoneOffsetFromUTC is stated only if the source
    states it.
    """
    identity = decoded(header)
    result.copy_patient_and_study_information(identity)
    if procedure := codes(identity, "ProcedureCodeSequence"):
        result.ProcedureCodeSequence = procedure
    else:
        result.pop("ProcedureCodeSequence", None)  # Type 3: with items or not at all
    for keyword in ("TimezoneOffsetFromUTC", "SpecificCharacterSet"):
        if keyword in result:
            del result[keyword]
    if timezone_of(header) is not None:
        result.TimezoneOffsetFromUTC = header.TimezoneOffsetFromUTC
    if "SpecificCharacterSet" in header:
        result.SpecificCharacterSet = header.SpecificCharacterSet
    if not _can_be_written(result, identity):
        result.SpecificCharacterSet = UTF_8
    when = local_time(header, created_at)
    for of in ("InstanceCreation", "Content"):
        setattr(result, f"{of}Date", f"{when:%Y%m%d}")
        setattr(result, f"{of}Time", f"{when:%H%M%S.%f}")


def timezone_of(header: Dataset) -> timezone | None:
    """The zone that TimezoneOffsetFromUTC (0008,0201) states, as in "+0130"; None if absent or malformed."""
    match = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", str(header.get("TimezoneOffsetFromUTC") or "").strip())
    if match is None or int(match[2]) > 14:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)


def local_time(header: Dataset, seconds: float) -> datetime:
    """A time (seconds since the epoch) in the source's zone, or in the machine's if it states none."""
    return datetime.fromtimestamp(seconds, tz=UTC).astimezone(timezone_of(header))


def pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    """Two positive numbers, such as a spacing; None unless the source states exactly two."""
    try:
        values = [float(value) for value in header.get(keyword) or ()]
    except (TypeError, ValueError):
        return None
    return (values[0], values[1]) if len(values) == 2 and all(0 < v < math.inf for v in values) else None


def orientation(header: Dataset) -> list[str]:
    """PatientOrientation if it is two directions of a human body (PS3.3 C.7.6.1.1.1); else empty."""
    stated = header.get("PatientOrientation")
    values = [str(value) for value in stated] if isinstance(stated, MultiValue) else []
    return values if len(values) == 2 and all(re.fullmatch("[LRAPHF]{1,3}", v) for v in values) else []


def body_part_examined(header: Dataset) -> str:
    """BodyPartExamined as a code string (PS3.5 6.2 CS): in upper case; empty if it cannot be one."""
    stated = str(header.get("BodyPartExamined") or "").strip().upper()
    return stated if re.fullmatch("[A-Z0-9_ ]{1,16}", stated) else ""


def codes(item: Dataset, keyword: str) -> list[Dataset]:
    """Those items of a code sequence that are codes (PS3.3 8.8)."""
    values = ("CodeValue", "LongCodeValue", "URNCodeValue")
    return [
        code for code in item.get(keyword) or [] if code.get("CodeMeaning") and any(map(code.get, values))
    ]


def number(header: Dataset, keyword: str) -> int | None:
    """The value of an integer string; None if it is absent or invalid (PS3.5 6.2 IS)."""
    try:
        value = int(str(header.get(keyword)))
    except (TypeError, ValueError):  # pydicom looks at the text only when the value is read
        return None
    return value if -(2**31) <= value < 2**31 else None


def _can_be_written(result: Dataset, identity: Dataset) -> bool:
    """Whether SpecificCharacterSet has every character that the result adds to the source's."""
    stated = result.get("SpecificCharacterSet")
    encodings = convert_encodings(list(stated) if isinstance(stated, list) else stated)
    # pydicom takes the default repertoire for Latin-1, to read what some devices write: it is ASCII.
    own = {"ascii" if encoding == "iso8859" else encoding for encoding in encodings}
    foreign = {c for text in _texts(result) for c in text} - {c for text in _texts(identity) for c in text}
    return all(any(_encodes(character, encoding) for encoding in own) for character in foreign)


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _texts(dataset: Dataset) -> Iterator[str]:
    elements: Iterator[DataElement] = dataset.iterall()
    for element in elements:
        if element.VR in CUSTOMIZABLE_CHARSET_VR and element.value:
            several = not isinstance(element.value, str | PersonName)
            for value in element.value if several else [element.value]:
                yield str(value)
