"""Headers of real devices, with all that their makers left out or put in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import support.report_studies as studies
from pydicom import dcmread
from support import validators

from pacs_node import config
from pacs_node.report import check, sc, sr
from pacs_node.report.facts import ReportFacts

SETTINGS = config.ReportSettings()
FILES = ("dx_image.dcm", "RG1_J2KI.dcm", "RG2_JPLY_fixed.dcm", "RG3_J2KR.dcm", "CR-ModalitySequenceLUT.dcm")

BAD_UID = re.compile(
    r"Error - (Illegal root for UID - \"999\.999\.01.*|Value invalid for this VR - .* <999\.999\.01.*"
    r"|Dicom dataset contains invalid data values for Value Representations)"
)
"""The UID of one source is not valid, and it is referred to as it is."""
HAS_A_BAD_UID = "CR-ModalitySequenceLUT.dcm"


@pytest.mark.parametrize("name", FILES)
def test_a_real_header_gives_a_valid_report_and_capture(
    name: str, data_dir: Path, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    for program in validators.PROGRAMS:
        tool(program)
    source = dcmread(data_dir / "dicom" / name, stop_before_pixels=True)
    facts = ReportFacts.of(studies.request(studies.image(source, 0.8731)), SETTINGS)
    for made in (sr.build(facts), sc.build(facts, facts.images[0], studies.display(source))):
        check.verify(made, facts)
        path = tmp_path / f"{made.Modality}.dcm"
        made.save_as(path, enforce_file_format=True)
        check.verify(dcmread(path), facts)
        errors = [line for line in validators.dciodvfy(path) if line.startswith("Error")]
        assert [line for line in errors if not BAD_UID.fullmatch(line)] == []
    if name != HAS_A_BAD_UID:  # dcmtk does not read a report that refers to it
        assert validators.dsrdump(tmp_path / "SR.dcm") == []
