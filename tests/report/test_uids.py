"""UIDs follow from content: the same for the same, another for anything else that the object says."""

from __future__ import annotations

from dataclasses import replace

import support.report_studies as studies
from pydicom.uid import UID

from pacs_node import config
from pacs_node.records import ImageResult, Outcome
from pacs_node.report import sr, uids

SETTINGS = config.ReportSettings()
REQUEST = studies.request()
IMAGE = REQUEST.images[0]


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
    later = studies.request(*REQUEST.images, studies.image(studies.header(3), 0.3, 3), revision=2)
    assert uids.sc(later, IMAGE, SETTINGS) == uids.sc(REQUEST, IMAGE, SETTINGS)
    assert uids.sc_series(later, SETTINGS, "WRIST") == uids.sc_series(REQUEST, SETTINGS, "WRIST")
    assert uids.sr(later, SETTINGS, Outcome.POSITIVE) != uids.sr(REQUEST, SETTINGS, Outcome.POSITIVE)
    assert uids.sr_series(later, SETTINGS, Outcome.POSITIVE) != uids.sr_series(
        REQUEST, SETTINGS, Outcome.POSITIVE
    )


def test_what_a_report_says_decides_its_uid() -> None:
    model = studies.MODEL
    others = [
        (REQUEST, SETTINGS, Outcome.NEGATIVE),
        (replace(REQUEST, revision=2), SETTINGS, Outcome.POSITIVE),
        (replace(REQUEST, model=replace(model, sha256="cd" * 32)), SETTINGS, Outcome.POSITIVE),
        (replace(REQUEST, model=replace(model, threshold=0.4)), SETTINGS, Outcome.POSITIVE),
        (REQUEST, config.ReportSettings(label="For tests"), Outcome.POSITIVE),
        (REQUEST, config.ReportSettings(iod="comprehensive3d"), Outcome.POSITIVE),
        (replace(REQUEST, images=REQUEST.images[:1]), SETTINGS, Outcome.POSITIVE),
        (studies.request(*REQUEST.images, skipped("one reason")), SETTINGS, Outcome.POSITIVE),
        (studies.request(*REQUEST.images, skipped("another")), SETTINGS, Outcome.POSITIVE),
    ]
    made = {uids.sr(*other) for other in others} | {uids.sr(REQUEST, SETTINGS, Outcome.POSITIVE)}
    assert len(made) == len(others) + 1


def test_neither_times_nor_the_order_of_arrival_decide() -> None:
    again = replace(REQUEST, created_at=1_900_000_000.0, images=REQUEST.images[::-1])
    assert uids.sr(again, SETTINGS, Outcome.POSITIVE) == uids.sr(REQUEST, SETTINGS, Outcome.POSITIVE)


def test_the_same_request_gives_the_same_bytes() -> None:
    bare = dict.fromkeys(["PatientBirthDate", "StudyDate", "StudyTime"])
    for request in (studies.request(), studies.request(studies.image(studies.header(1, **bare), 0.9))):
        first, second = (sr.build(request, SETTINGS) for _ in range(2))
        assert first.to_json() == second.to_json()
