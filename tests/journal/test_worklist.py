"""The worklist: the right studies in order, without patients for users who may not see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.journal import Clock, Steps

from pacs_node.journal import audit, deliveries, instances, studies, views
from pacs_node.journal.database import Database
from pacs_node.journal.transaction import FIRST_HASH
from pacs_node.journal.views import Filters
from pacs_node.records import (
    Analysis,
    Arrival,
    AuditKind,
    DeliveryState,
    Finding,
    ModelIdentity,
    StudyState,
    VisibleState,
)

Arrive = Callable[..., Arrival]


@pytest.fixture
def steps(database: Database, model: ModelIdentity, finding: Finding) -> Steps:
    return Steps(database, model, finding)


@pytest.fixture
def receive(database: Database, arrival: Arrive) -> Callable[..., None]:
    """Receive a study with one image of its own UID."""

    def make(uid: str, **changes: object) -> None:
        instances.register(
            database, [arrival(f"{uid}.1", f"{uid:a>64}", study_instance_uid=uid, **changes)], 0
        )

    return make


def uids(database: Database, patients: bool = True, **filters: object) -> list[str]:
    page = views.worklist(database, Filters(**filters), patients)  # type: ignore[arg-type]
    assert page.count == len(page.studies)
    return [study.study_instance_uid for study in page.studies]


def send(database: Database, state: DeliveryState, destination: str = "pacs") -> None:
    claim = deliveries.claim_deliveries(database, destination, 10)
    assert claim is not None
    for item in claim.items:
        assert deliveries.finish_delivery(database, claim.token, item, state, 0, "", 60.0)


def test_the_states_are_those_of_the_commands(
    database: Database, receive: Callable[..., None], steps: Steps, clock: Clock
) -> None:
    for uid, state in (("2.1", DeliveryState.SENT), ("2.2", DeliveryState.QUARANTINED), ("2.3", None)):
        receive(uid)
        steps.report(destinations=("pacs",))
        if state:
            send(database, state)
    receive("2.4")
    steps.report()
    for uid, ended in (("2.5", StudyState.SKIPPED), ("2.6", StudyState.FAILED)):
        receive(uid)
        steps.analyze()
        claim = studies.claim_study(database)
        assert claim is not None
        (study,) = claim.items
        assert studies.close_study(database, claim.token, study, ended, "why", AuditKind.STUDY_SKIPPED)
    receive("2.7")
    page = views.worklist(database, Filters(), patients=True)
    states = {study.study_instance_uid: study.state for study in page.studies}
    assert states == {row["study_instance_uid"]: row["state"] for row in views.studies(database, 10)}
    assert set(states.values()) == {*VisibleState}
    for uid, visible in states.items():
        assert uids(database, state=visible) == [uid]
    (failed,) = views.failed_studies(database, 10)
    assert (failed.state, failed.reason, failed.images) == ("FAILED", "why", 0)


def test_a_study_is_delivered_only_once_it_is_committed(
    database: Database, receive: Callable[..., None], steps: Steps
) -> None:
    receive("2.1")
    steps.report(destinations=("pacs",))
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim is not None
    for item in claim.items:
        deliveries.finish_delivery(
            database, claim.token, item, DeliveryState.SENT, 0, "", 0.0, commitment=True
        )
    assert uids(database, state="READY") == ["2.1"]
    assert uids(database, state="DELIVERED") == []


def test_filters_select_studies(
    database: Database, receive: Callable[..., None], steps: Steps, clock: Clock
) -> None:
    began = clock.now
    receive("2.1", modality="CR", body_part="HAND", patient_name="MÜLLER^ANNA", patient_id="A_1")
    steps.report()
    clock.now += 100
    receive("2.2", modality="DX", body_part="WRIST", patient_name="O'HARA^MARY", patient_id="A%1")
    assert uids(database) == ["2.2", "2.1"]
    assert uids(database, modality="CR") == ["2.1"]
    assert uids(database, body_part="WRIST") == ["2.2"]
    assert uids(database, outcome="NEGATIVE") == ["2.1"]
    assert uids(database, outcome="POSITIVE") == []
    assert uids(database, since=began + 1) == ["2.2"]
    assert uids(database, until=began + 1) == ["2.1"]
    assert uids(database, words=("summ",)) == ["2.1"]
    assert uids(database, words=("2.2",)) == ["2.2"]
    assert uids(database, words=("müller",)) == ["2.1"]
    assert uids(database, words=("anna", "Müller")) == ["2.1"]
    assert uids(database, words=("anna", "hara")) == []
    # What a pattern would take for any character is looked for as it stands.
    assert uids(database, words=("a_1",)) == ["2.1"]
    assert uids(database, words=("a%1",)) == ["2.2"]
    assert views.worklist_choices(database) == (["CR", "DX"], ["HAND", "WRIST"])


def test_patients_are_neither_shown_nor_searched_without_permission(
    database: Database, receive: Callable[..., None]
) -> None:
    receive("2.1", patient_name="MÜLLER^ANNA", patient_id="ID-77")
    (listed,) = views.worklist(database, Filters(), patients=False).studies
    assert listed.patients == ()
    assert "77" not in repr(listed)
    for word in ("anna", "MÜLLER", "ID-77"):
        assert uids(database, patients=True, words=(word,)) == ["2.1"]
        assert uids(database, patients=False, words=(word,)) == []


def test_pages_follow_each_other_while_studies_come_in(
    database: Database, receive: Callable[..., None]
) -> None:
    for number in range(5):
        receive(f"2.{number}")
    first = views.worklist(database, Filters(), True, limit=2)
    receive("2.9")
    second = views.worklist(database, Filters(), True, before=first.older, limit=2)
    third = views.worklist(database, Filters(), True, before=second.older, limit=2)
    listed = [study.study_instance_uid for page in (first, second, third) for study in page.studies]
    assert listed == ["2.4", "2.3", "2.2", "2.1", "2.0"]
    assert third.older is None
    assert third.count == 6


def test_a_study_is_listed_with_its_newest_images_and_report(
    database: Database, arrival: Arrive, steps: Steps, model: ModelIdentity, finding: Finding, clock: Clock
) -> None:
    """A second version of an image replaces the first, and another model's findings do not count."""
    began = clock.now
    instances.register(database, [arrival("2.1.1"), arrival("2.1.2", "b" * 64, body_part="WRIST")], 0)
    clock.now += 1
    claim = instances.claim_instances(database, 8)
    assert claim is not None
    analyses = [
        Analysis(item, replace(finding, probability=p))
        for item, p in zip(claim.items, (0.9, 0.2), strict=True)
    ]
    instances.finish_instances(database, claim.token, model, analyses)
    clock.now += 1
    steps.report(destinations=("pacs",))
    clock.now += 3
    send(database, DeliveryState.SENT)
    (study,) = views.worklist(database, Filters(), True).studies
    assert (study.images, study.analyzed, study.waiting, study.probability) == (2, 2, 0, 0.9)
    assert (study.received_at, study.complete_at) == (began, began)
    assert (study.analyzed_at, study.reported_at, study.delivered_at) == (began + 1, began + 2, began + 5)
    assert (study.outcome, study.body_parts) == ("NEGATIVE", ("WRIST",))
    clock.now += 1
    instances.register(database, [arrival("2.1.1", "c" * 64)], 0)
    # Our own result, forwarded back, is none of its images.
    instances.register(database, [arrival("2.1.9", "d" * 64, skip_reason="own result", modality="SR")], 0)
    (study,) = views.worklist(database, Filters(), True).studies
    assert (study.images, study.analyzed, study.waiting, study.probability) == (2, 1, 1, 0.2)
    assert (study.state, study.complete_at, study.modalities) == ("OPEN", began + 6, ("DX",))
    steps.report()
    (study,) = views.worklist(database, Filters(), True).studies
    assert (study.images, study.waiting, study.probability) == (2, 0, 0.2)


def test_two_patients_under_one_study_are_both_named(database: Database, arrival: Arrive) -> None:
    instances.register(database, [arrival("2.1.1", patient_id="P1", patient_name="A")], 0)
    instances.register(database, [arrival("2.1.2", "b" * 64, patient_id="P2", patient_name="B")], 0)
    (study,) = views.worklist(database, Filters(), True).studies
    assert study.patients == (("A", "P1"), ("B", "P2"))


def test_results_waiting_for_each_destination(
    database: Database, receive: Callable[..., None], steps: Steps, clock: Clock
) -> None:
    made_at = clock.now
    receive("2.1")
    steps.report(destinations=("pacs", "vna"))
    assert deliveries.waiting(database)["vna"] == (2, made_at, 0, 0)
    send(database, DeliveryState.QUARANTINED)
    for _ in range(deliveries.STALLED_ATTEMPTS):
        send(database, DeliveryState.PENDING, "vna")
        clock.now += 61
    assert deliveries.waiting(database) == {"pacs": (0, None, 0, 2), "vna": (2, made_at, 2, 0)}


def test_the_newest_events_after_a_number(database: Database) -> None:
    assert audit.head(database) == (0, FIRST_HASH)
    events: tuple[tuple[AuditKind, dict[str, Any]], ...] = (
        (AuditKind.CALENDAR_DISK, {"n": 1}),
        (AuditKind.CALENDAR_FAILED, {"job": "disk"}),
        (AuditKind.CALENDAR_FAILED, {"job": "echo"}),
        (AuditKind.CALENDAR_DISK, {"n": 2}),
        (AuditKind.RECEIVED, {}),
    )
    for event, details in events:
        database.audit(event, **details)
    seq, digest = audit.head(database)
    assert seq == 5
    assert digest != FIRST_HASH
    names = ("calendar_disk", "calendar_failed")
    newest = [(event.event, event.details) for event in audit.newest(database, names)]
    assert newest == [("calendar_failed", {"job": "echo"}), ("calendar_disk", {"n": 2})]
    (failed,) = audit.newest(database, ["calendar_failed"], job="disk")
    assert failed.seq == 2
    last = audit.last(database)
    assert last is not None
    assert last.event == "received"
    for job, kind in (("disk", "calendar_disk"), ("echo", "calendar_failed")):
        run = audit.last_run(database, job)
        assert run is not None
        assert run.event == kind
    assert audit.newest(database, names, seq) == []
    database.audit(AuditKind.CALENDAR_DISK, n=3)
    assert [event.details for event in audit.newest(database, names, seq)] == [{"n": 3}]
