"""dicom-validator, given the standard's tables without a download.

It reads them from docbook files that it fetches; here they come from the package dicom-standard (PS3.3 of
April 2020), which has the same as JSON. What that leaves out is filled in: which attributes belong to which
value type (PS3.3 C.17.3), and that content items nest.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.validator.dicom_info import DicomInfo
from dicom_validator.validator.error_handler import ValidationResultHandlerBase
from dicom_validator.validator.iod_validator import IODValidator
from dicom_validator.validator.validation_result import Status
from pydicom.dataset import Dataset

TABLES = Path(sys.prefix) / "standard"
IODS = ("Secondary Capture Image", "Comprehensive SR", "Comprehensive 3D SR")
CONTENT = "sr-document-content"
OF_VALUE_TYPES = {
    "(0040,A300)": ["NUM"],
    "(0040,A168)": ["CODE"],
    "(0008,1199)": ["IMAGE", "COMPOSITE", "WAVEFORM"],
    "(0070,0022)": ["SCOORD", "SCOORD3D"],
    "(0070,0023)": ["SCOORD", "SCOORD3D"],
    "(3006,0024)": ["SCOORD3D"],
    "(0040,A130)": ["TCOORD"],
    "(0040,A050)": ["CONTAINER"],
    "(0040,A160)": ["TEXT"],
    "(0040,A124)": ["UIDREF"],
}
"""Attributes that a content item has where it has one of these value types, and else not."""
ALTERNATIVES = ("(0040,A132)", "(0040,A138)", "(0040,A13A)")
"""Of which a TCOORD has one; we make none."""
ALLOWED = {"SOP Common: (0018,A001) / (0018,1002): TagUnexpected": "DeviceUID came there after April 2020"}
"""What may be said of a result all the same, and why."""


def problems(dataset: Dataset) -> list[str]:
    """The problems that dicom-validator has with an object: module, tag within its sequences, message."""
    result = IODValidator(dataset, tables(), error_handler=ValidationResultHandlerBase()).validate()
    lines = [
        f"{module}: {tag}: {error.code.name}"
        for module, errors in result.module_errors.items()
        for tag, error in errors.items()
    ]
    if not lines and result.status is not Status.Passed:
        lines = [result.status.name]
    return [line for line in lines if line not in ALLOWED]


@cache
def tables() -> DicomInfo:
    """The tables of the results' IODs in dicom-validator's form."""
    dictionary = {
        row["tag"]: {"name": row["name"], "vr": row["valueRepresentation"], "vm": row["valueMultiplicity"]}
        for row in read("attributes")
    }
    parser = ConditionParser(dictionary)
    ciods = {row["id"]: row["name"] for row in read("ciods") if row["name"] in IODS}
    names = {row["id"]: row["name"] for row in read("modules")}
    used = [row for row in read("ciod_to_modules") if row["ciodId"] in ciods]
    iods = {
        sop["id"]: {
            "title": sop["ciod"],
            "modules": {
                names[row["moduleId"]]: {"ref": row["moduleId"], "use": row["usage"]}
                for row in used
                if ciods[row["ciodId"]] == sop["ciod"]
            },
            "group_macros": {},
        }
        for sop in read("sops")
        if sop["ciod"] in IODS
    }
    modules: dict[str, dict[str, Any]] = {row["moduleId"]: {} for row in used}
    for row in read("module_to_attributes"):
        if row["moduleId"] in modules:
            _put(modules[row["moduleId"]], row, dictionary, parser)
    _nest(modules)
    return DicomInfo(dictionary, iods, modules)


def read(name: str) -> list[dict[str, Any]]:
    """A table of dicom-standard."""
    rows: list[dict[str, Any]] = json.loads((TABLES / f"{name}.json").read_text(encoding="utf-8"))
    return rows


def _put(
    module: dict[str, Any],
    row: dict[str, Any],
    dictionary: dict[str, dict[str, str]],
    parser: ConditionParser,
) -> None:
    """Put a row at its place in the sequences of its module; the first row of an attribute counts."""
    place = module
    *outer, _ = row["path"].split(":")[1:]
    for number in outer:
        place = place[f"({number[:4]},{number[4:]})".upper()].setdefault("items", {})
    tag, kind = row["tag"], row["type"]
    if tag in place or kind not in ("1", "1C", "2", "2C", "3"):
        return
    place[tag] = {"name": dictionary.get(tag, {}).get("name", tag), "type": kind}
    if kind in ("1C", "2C"):
        condition = parser.parse(" ".join(unescape(re.sub("<[^>]*>", " ", row["description"])).split()))
        if condition.type is None or not condition.type.user_defined:
            place[tag]["cond"] = condition.result_dict()


def _nest(modules: dict[str, dict[str, Any]]) -> None:
    """Nest content items, as the flat table does not."""
    root = modules[CONTENT]
    item = root["(0040,A730)"]["items"]
    for level in (root, item):
        for tag, kinds in OF_VALUE_TYPES.items():
            kind = f"{level[tag]['type'][0]}C"
            condition = {"type": "MN", "tag": "(0040,A040)", "op": "=", "values": kinds, "index": 0}
            level[tag] |= {"type": kind, "cond": condition}
        for tag in ALTERNATIVES:
            level[tag] = {"name": level[tag]["name"], "type": "3"}
    modules["content-item"] = {**item, "(0040,A730)": {**root["(0040,A730)"], "items": {}}}
    again = {"include": [{"ref": "content-item"}]}
    root["(0040,A730)"]["items"] = modules["content-item"]["(0040,A730)"]["items"] = again
