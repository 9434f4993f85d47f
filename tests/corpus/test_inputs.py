"""What the node does with every odd input, as docs/inputs.md says it does."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import odd_inputs_table as table
import pytest
from corpus_run import Run, run
from odd_inputs import Case
from odd_inputs_real import FILES
from pydicom import dcmread

from pacs_node.records import Outcome
from pacs_node.report import wording
from pacs_node.report.text import as_text

CASES = table.cases()
SLOW = {"60 megapixels", "deflated bomb"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
KEPT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDescription")


@pytest.mark.parametrize("name", NAMES)
def test_the_node_does_what_the_table_says(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    done = run(case, tmp_path)
    assert_as_said(case, done)
    if case.shows is not None:
        expected = case.shows() if done.shown else None
        for shown in done.shown:
            assert expected is not None
            assert shown.shape == expected.shape
            assert np.abs(shown - expected).max() <= case.tolerance
    assert_reported(case, done)
    if name not in UNREADABLE_NAMES:
        assert_same_patient(done)


@pytest.mark.parametrize("name", FILES)
def test_files_of_real_devices(name: str, data_dir: Path, tmp_path: Path) -> None:
    (case,) = (case for case in table.groups(data_dir / "dicom")[table.REAL] if case.name == name)
    done = run(case, tmp_path)
    assert_as_said(case, done)
    assert_reported(case, done)


UNREADABLE_NAMES = {"UTF-8 declared, Latin-1 meant"}
"""A letter that is none in the declared character set becomes U+FFFD, as in every reader."""


def assert_as_said(case: Case, done: Run) -> None:
    assert len(done.outcomes) == len(case.outcomes)
    for outcome, said in zip(done.outcomes, case.outcomes, strict=True):
        if said.endswith("..."):
            assert outcome.startswith(said.removesuffix("..."))
        else:
            assert outcome == said


def assert_reported(case: Case, done: Run) -> None:
    """What was let in has a report, a failure its reason in it, and each analyzed image a capture like it."""
    said = [outcome.split(":")[0].split(";")[0] for outcome in done.outcomes]
    if not {"analyzed", "failed"} & set(said):
        assert not done.results
        return
    assert done.request
    text = as_text(done.result())
    for outcome in done.outcomes:
        if outcome.startswith("failed: "):
            assert outcome.removeprefix("failed: ") in text
    assert (wording.outcome(done.request) is Outcome.FAILED) == ("analyzed" not in said)
    for part in case.reads:
        assert part in text + done.summary
    assert len(done.shown) == said.count("analyzed") == len(done.results) - 1
    numbers = [number for number, what in enumerate(said) if what == "analyzed"]
    for number, shown in zip(numbers, done.shown, strict=True):
        assert_pictured(done.result(f"SC{number}").pixel_array, shown)


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


def assert_same_patient(done: Run) -> None:
    """The patient's attributes come back in the very bytes that were received."""
    if not done.request:
        return
    newest = max(done.request.images, key=lambda image: image.instance.received_at)
    source = dcmread(done.sources[newest.instance.id], stop_before_pixels=True)
    for role in done.results:
        result = done.result(role)
        for keyword in KEPT:
            assert raw(result, keyword) == raw(source, keyword)
        if "SpecificCharacterSet" in source:
            assert result.SpecificCharacterSet == source.SpecificCharacterSet


def raw(dataset: object, keyword: str) -> bytes:
    element = dataset.get_item(keyword)  # type: ignore[attr-defined]
    return bytes(element.value or b"").rstrip(b" ") if element is not None else b""


def test_what_comes_back_is_known_as_our_own(tmp_path: Path) -> None:
    done = run(CASES["one image of two is broken"], tmp_path / "first")
    sent = [path.read_bytes() for path in done.results.values()]
    assert len(sent) == 2
    again = run(Case("results", "", lambda: sent), tmp_path / "second")
    assert again.outcomes == ("skipped: own result",) * 2


def test_no_two_cases_have_one_name() -> None:
    assert len(CASES) == sum(len(group) for group in table.groups(Path()).values()) - len(FILES)


def test_the_document_is_up_to_date() -> None:
    """`python tests/odd_inputs_table.py` writes it."""
    assert table.DOCUMENT.read_text(encoding="utf-8") == table.document()


@pytest.mark.parametrize("wrong", ["mirrored", "turned", "inverted"])
def test_a_wrong_picture_would_be_seen(wrong: str, tmp_path: Path) -> None:
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


def test_memory_is_not_taken_for_what_is_refused(tmp_path: Path) -> None:
    """Absurd sizes are refused in less memory than a thousandth of what they claim."""
    import tracemalloc

    for case in table.groups(tmp_path)["Made to take all memory"]:
        if case.does.startswith("failed") and case.name not in SLOW:  # type: ignore[union-attr]
            contents = case.contents()
            kept = Case(case.name, case.why, lambda contents=contents: contents, case.does)  # type: ignore[misc]
            tracemalloc.start()
            run(kept, tmp_path)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 50 << 20, case.name
