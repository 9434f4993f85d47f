"""UIDs follow from content: the same for the same, another for anything else that the object says."""

from __future__ import annotations

from dataclasses import replace

import support.report_studies as studies
from pydicom.uid import UID

from pacs_node import config
from pacs_node.records import ImageResult, Outcome, ReportRequest
from pacs_node.report import sr, uids
from pacs_node.report.facts import ReportFacts

SETTINGS = config.ReportSettings()
REQUEST = studies.request()
IMAGE = REQUEST.images[0]
FACTS = ReportFacts.of(REQUEST, SETTINGS)


def facts(request: ReportRequest) -> ReportFacts:
    return ReportFacts.of(request, SETTINGS)


def skipped(reason: str) -> ImageResult:
    return studies.skipped(studies.header(3), reason, 3)


def test_a_uid_is_a_valid_uuid_of_128_bits() -> None:
    uid = uids.derive(studies.NODE, "SC", "a", "b")
    assert isinstance(uid, UID)
    assert uid.is_valid
    assert uid.startswith("2.25.")
    assert int(uid.removeprefix("2.25.")) < 2**128


def test_a_uid_is_the_same_for_ever() -> None:
    assert uids.derive(studies.NODE, "SC", "a", "b") == "2.25.42239631261002806276379157473583373898"


def test_parts_cannot_be_confused() -> None:
    lists = [["a", "b"], ["ab"], ["a", "", "b"], ['a","b'], ["b", "a"], ["a, b"]]
    made = {uids.derive(studies.NODE, "SC", *parts) for parts in lists}
    made.add(uids.derive(studies.NODE, "SR", "a", "b"))
    made.add(
        uids.derive(replace(studies.NODE, namespace="00000000-0000-4000-8000-000000000000"), "SC", "a", "b")
    )
    assert len(made) == len(lists) + 2


def test_a_late_image_leaves_the_other_captures_alone() -> None:
    later = facts(studies.request(*REQUEST.images, studies.image(studies.header(3), 0.3, 3), revision=2))
    assert uids.sc(later, IMAGE) == uids.sc(FACTS, IMAGE)
    assert uids.sc_series(later, "WRIST") == uids.sc_series(FACTS, "WRIST")
    assert uids.sr(later) != uids.sr(FACTS)
    assert uids.sr_series(later) != uids.sr_series(FACTS)


def test_what_a_report_states_decides_its_uid() -> None:
    model = studies.MODEL
    others = [
        replace(FACTS, outcome=Outcome.NEGATIVE),
        facts(replace(REQUEST, revision=2)),
        facts(replace(REQUEST, model=replace(model, sha256="cd" * 32))),
        facts(replace(REQUEST, model=replace(model, threshold=0.4))),
        ReportFacts.of(REQUEST, config.ReportSettings(label="For tests")),
        ReportFacts.of(REQUEST, config.ReportSettings(iod="comprehensive3d")),
        facts(replace(REQUEST, images=REQUEST.images[:1])),
        facts(studies.request(*REQUEST.images, skipped("one reason"))),
        facts(studies.request(*REQUEST.images, skipped("another"))),
    ]
    made = {uids.sr(other) for other in others} | {uids.sr(FACTS)}
    assert len(made) == len(others) + 1


def test_neither_times_nor_the_order_of_arrival_decide() -> None:
    again = replace(REQUEST, created_at=1_900_000_000.0, images=REQUEST.images[::-1])
    assert uids.sr(facts(again)) == uids.sr(FACTS)


def test_the_same_request_gives_the_same_bytes() -> None:
    bare = dict.fromkeys(["PatientBirthDate", "StudyDate", "StudyTime"])
    for request in (studies.request(), studies.request(studies.image(studies.header(1, **bare), 0.9))):
        first, second = (sr.build(ReportFacts.of(request, SETTINGS)) for _ in range(2))
        assert first.to_json() == second.to_json()
