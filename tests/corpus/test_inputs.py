"""The node's handling of every odd input, as documented in docs/inputs.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import support.odd_inputs.table as table
from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian
from support import standard_tables, validators, viewer_rules
from support.fuzz.fuzz_bench import memory_mb
from support.odd_inputs.corpus import Case
from support.odd_inputs.device_files import FILES
from support.odd_inputs.pipeline_run import Run, run

from pacs_node.config import ReportSettings
from pacs_node.dicom import reading
from pacs_node.records import Outcome
from pacs_node.report.facts import ReportFacts
from pacs_node.report.sr import as_text

GROUPS = table.groups(Path())
CASES = table.cases()
SLOW = {"60 megapixels", "deflated bomb"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
KEPT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDescription")
BAD_VALUES = "Error - Dicom dataset contains invalid data values for Value Representations"


@dataclass
class Done:
    """A case and its run."""

    case: Case
    run: Run

    @property
    def words(self) -> list[str]:
        """The outcome of each file in one word."""
        return [re.split("[:;]", outcome)[0] for outcome in self.run.outcomes]


@pytest.fixture(scope="module", params=[*NAMES, *FILES])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    if request.param in FILES:
        folder = request.getfixturevalue("data_dir") / "dicom"
        (case,) = (case for case in table.groups(folder)[table.REAL] if case.name == request.param)
    else:
        case = CASES[request.param]
    return Done(case, run(case, tmp_path_factory.mktemp("case")))


def test_outcomes_are_those_of_the_table(done: Done) -> None:
    assert len(done.run.outcomes) == len(done.case.outcomes)
    for outcome, expected in zip(done.run.outcomes, done.case.outcomes, strict=True):
        if expected.endswith("..."):
            assert outcome.startswith(expected.removesuffix("..."))
        else:
            assert outcome == expected


def test_the_classifier_is_given_the_right_pixels(done: Done) -> None:
    assert len(done.run.shown) == done.words.count("analyzed")
    if done.case.shows is None or not done.run.shown:
        return
    expected = done.case.shows()
    for shown in done.run.shown:
        assert shown.shape == expected.shape
        assert np.abs(shown - expected).max() <= done.case.tolerance


def test_every_admitted_image_is_reported_and_captured(done: Done) -> None:
    """A failure with its reason, each analyzed image with a capture like it."""
    if not {"analyzed", "failed"} & set(done.words):
        assert not done.run.results
        return
    assert done.run.request
    text = as_text(done.run.result())
    for outcome in done.run.outcomes:
        if outcome.startswith("failed: "):
            assert outcome.removeprefix("failed: ") in text
    for part in done.case.reads:
        assert part in text + done.run.summary
    facts = ReportFacts.of(done.run.request, ReportSettings())
    assert (facts.outcome is Outcome.FAILED) == ("analyzed" not in done.words)
    numbers = [number for number, what in enumerate(done.words) if what == "analyzed"]
    assert set(done.run.results) == {"SR", *(f"SC{number}" for number in numbers)}
    for number, shown in zip(numbers, done.run.shown, strict=True):
        assert_pictured(done.run.result(f"SC{number}").pixel_array, shown)


def test_every_viewer_shows_the_report(done: Done) -> None:
    if not done.run.request:
        return
    report = done.run.result()
    regions = [len(i.finding.regions) for i in done.run.request.images if i.finding]
    assert len(viewer_rules.ohif(report)) == len(regions) + sum(regions)
    assert len(viewer_rules.stone(report)) == sum(regions)
    for lines in (viewer_rules.weasis(report), viewer_rules.stone_text(report)):
        assert any("AI: " in line for line in lines)


def test_patient_identifiers_are_returned_byte_for_byte(done: Done) -> None:
    if not done.run.request:
        return
    newest = max(done.run.sources)
    source = dcmread(done.run.sources[newest], stop_before_pixels=True)
    for role in done.run.results:
        result = done.run.result(role)
        for keyword in KEPT:
            assert raw(result, keyword) == raw(source, keyword)
        if "SpecificCharacterSet" in source:
            stated = source.SpecificCharacterSet
            assert result.get("SpecificCharacterSet") == (None if stated == "rot13" else stated)


def test_the_results_are_valid(done: Done, tool: Callable[[str], Path], tmp_path: Path) -> None:
    """dicom3tools, dcmtk and dicom-validator find only invalid values that are copied from the source."""
    for program in ("dciodvfy", "dcentvfy", "dsrdump"):
        tool(program)
    problems: list[str] = []
    paths = []
    for role, path in done.run.results.items():
        # Validators name the file, and judge by the name's ending.
        copy = tmp_path / f"{role}.dcm"
        copy.write_bytes(path.read_bytes())
        paths.append(copy)
        problems += validators.dciodvfy(copy) + standard_tables.problems(dcmread(copy))
    if (
        paths and "ReferencedSOPInstanceUID" not in done.case.invalid
    ):  # dcmtk reads no report that refers to it
        problems += validators.dsrdump(tmp_path / "SR.dcm")
    for number, path in done.run.sources.items():
        # Its header only, in a transfer syntax that dicom3tools can read.
        header = reading.header(path)
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dcmwrite(tmp_path / f"source{number}.dcm", header, implicit_vr=False, little_endian=True)
        problems += validators.dcentvfy(tmp_path / f"source{number}.dcm", *paths)
    repeated = [name for keyword in done.case.invalid for name in names_of(keyword)]
    rest = [line for line in one_line_each(problems) if not any(name in line for name in repeated)]
    assert [line for line in rest if not (repeated and line == BAD_VALUES)] == []


def names_of(keyword: str) -> tuple[str, ...]:
    """The names that validators use for an attribute."""
    tag = Tag(keyword)
    return (
        f"<{keyword}>",
        f"{keyword} (",
        f"(0x{tag.group:04x},0x{tag.element:04x})",
        f"({tag.group:04X},{tag.element:04X})",
        f"<{dictionary_description(tag)}>",
    )


def one_line_each(lines: list[str]) -> list[str]:
    """Join the lines of a message that contains a value with line feeds."""
    whole: list[str] = []
    for line in lines:
        if re.match(r"Error|Warning|[WEF]: |\(0x", line) or not whole:
            whole.append(line)
        else:
            whole[-1] += line
    return whole


def assert_pictured(picture: np.ndarray, shown: np.ndarray) -> None:
    """The capture shows the image the right way round, where neither heat map nor text is drawn over it."""
    if min(shown.shape) < 100 or shown.max() == shown.min():
        return
    rows, columns = picture.shape[:2]
    grey = cv2.resize(shown, (columns, rows), interpolation=cv2.INTER_AREA)
    drawn = picture.mean(axis=2) / 255
    free = np.zeros((rows, columns), bool)
    free[rows // 4 : rows * 3 // 4, columns // 16 : columns // 4] = True
    assert np.abs(drawn - grey)[free].mean() < 0.02


def raw(dataset: Dataset, keyword: str) -> bytes:
    element = dataset.get_item(keyword)
    return bytes(element.value or b"").rstrip(b" ") if element is not None else b""


def test_own_results_are_recognized(tmp_path: Path) -> None:
    done = run(CASES["one image of two is broken"], tmp_path / "first")
    sent = [path.read_bytes() for path in done.results.values()]
    assert len(sent) == 2
    again = run(Case("results", "", lambda: sent), tmp_path / "second")
    assert again.outcomes == ("skipped: own result",) * 2


def test_case_names_are_unique() -> None:
    assert len(CASES) == sum(len(group) for group in GROUPS.values()) - len(FILES)


def test_the_document_is_up_to_date() -> None:
    """`python -m support.odd_inputs.table` writes the document."""
    assert table.DOCUMENT.read_text(encoding="utf-8") == table.document()


@pytest.mark.parametrize("wrong", ["mirrored", "turned", "inverted"])
def test_the_comparison_detects_a_mirrored_turned_or_inverted_picture(wrong: str, tmp_path: Path) -> None:
    """The comparison of captures tells a mirrored, a turned and an inverted picture."""
    done = run(CASES["plain"], tmp_path)
    picture = done.result("SC0").pixel_array
    changed: dict[str, Callable[[], np.ndarray]] = {
        "mirrored": lambda: picture[:, ::-1],
        "turned": lambda: picture[::-1, ::-1],
        "inverted": lambda: 255 - picture,
    }
    with pytest.raises(AssertionError):
        assert_pictured(changed[wrong](), done.shown[0])


def test_refused_files_take_no_memory(tmp_path: Path) -> None:
    """Files that claim absurd sizes are refused with little memory, as counted by the kernel."""
    for case in table.groups(tmp_path)["Made to take all memory"]:
        if not case.outcomes[0].startswith("analyzed"):
            contents = case.contents()
            kept = Case(case.name, case.why, partial(list, contents), case.does)
            memory_mb("VmHWM")
            before = memory_mb("VmRSS")
            run(kept, tmp_path)
            assert memory_mb("VmHWM") - before < 50, case.name
