"""Reports as a person reads them in a terminal."""

from __future__ import annotations

from pathlib import Path

import support.report_studies as studies
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs_node import config
from pacs_node.report import sr
from pacs_node.report.facts import ReportFacts

SHAPES = studies.shapes()


def report(shape: str) -> Dataset:
    return sr.build(ReportFacts.of(SHAPES[shape], config.ReportSettings()))


def test_a_report_reads_from_the_outcome_down(tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    report("positive").save_as(path, enforce_file_format=True)
    lines = sr.as_text(dcmread(path)).splitlines()
    assert lines[:2] == [
        "AI: Fracture suspected, left wrist, 87 %",
        "Imaging Measurement Report (complete, preliminary, unverified)",
    ]
    assert "      Finding Site: Wrist joint" in lines
    assert "        Laterality: Left" in lines
    assert "      Certainty of Finding: 87.31 %" in lines
    assert "      Fracture of bone: Absent" in lines
    assert "    Comment: Research use only. Not for diagnosis." in lines
    assert any(line.startswith("      Image Region: polyline (114.286, 257.143)") for line in lines)


def test_what_it_replaces_and_what_is_missing_is_said() -> None:
    amended = sr.as_text(report("amended"))
    assert f"replaces {studies.PREDECESSOR.sop_instance_uid}" in amended.splitlines()
    failed = sr.as_text(report("failed")).splitlines()
    assert "0 of 2 X-rays analyzed" in failed
    assert "    Impression: Image 1, PA: NOT ANALYZED: the pixel data cannot be decoded" in failed


def test_a_report_of_someone_else_is_readable_even_if_it_is_odd() -> None:
    odd, child = Dataset(), Dataset()
    child.ValueType, child.TextValue = "TEXT", "hello"
    odd.ContentSequence = [child]
    assert sr.as_text(odd).splitlines() == ["Structured Report", "(no name) ()", "  (no name): hello"]
