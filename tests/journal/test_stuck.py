"""Stuck deliveries, images and studies, and what an administrator can do about them."""

from collections.abc import Callable

import pytest
from support.journal import Steps

from pacs_node.journal import audit, deliveries, instances, studies, views
from pacs_node.journal.database import Database
from pacs_node.records import (
    Analysis,
    Arrival,
    AuditEvent,
    AuditKind,
    DeliveryState,
    Finding,
    ModelIdentity,
    StudyState,
)

PENDING, QUARANTINED = DeliveryState.PENDING, DeliveryState.QUARANTINED


@pytest.fixture
def steps(database: Database, model: ModelIdentity, finding: Finding) -> Steps:
    return Steps(database, model, finding)


@pytest.fixture
def reported(database: Database, arrival: Callable[..., Arrival], steps: Steps) -> None:
    """One study whose SC and SR are due for `pacs` and `vna`."""
    instances.register(database, [arrival()], 0)
    steps.report(destinations=("pacs", "vna"))


def answer(database: Database, destination: str, state: DeliveryState, times: int = 1) -> None:
    """Finish everything due for a destination in this state."""
    for _ in range(times):
        claim = deliveries.claim_deliveries(database, destination, 10)
        assert claim is not None
        for item in claim.items:
            assert deliveries.finish_delivery(
                database, claim.token, item, state, 0xA700, "out of resources", 0.0
            )


def events_of(database: Database, kind: str) -> list[AuditEvent]:
    return [event for event in audit.events(database) if event.event == kind]


def test_deliveries_in_progress_are_not_listed(database: Database, reported: None) -> None:
    answer(database, "pacs", PENDING, times=deliveries.STALLED_ATTEMPTS - 1)
    assert views.stuck(database, ["pacs", "vna"]) == []
    assert views.stuck_groups(database, ["pacs", "vna"]) == []


def test_stuck_deliveries_are_listed_with_their_reason(
    database: Database, clock: Callable[[], float], reported: None
) -> None:
    answer(database, "pacs", PENDING, times=deliveries.STALLED_ATTEMPTS)
    made_at = clock.now  # type: ignore[attr-defined]
    clock.now += 100  # type: ignore[attr-defined]
    answer(database, "vna", QUARANTINED)
    rows = views.stuck(database, ["pacs", "vna"])
    assert [(row["destination"], row["trouble"], row["since_at"]) for row in rows] == [
        *[("vna", "QUARANTINED", made_at + 100)] * 2,
        *[("pacs", "STALLED", made_at)] * 2,
    ]
    assert {(row["last_status"], row["reason"]) for row in rows} == {(0xA700, "out of resources")}
    assert [row["attempts"] for row in rows] == [1, 1, 10, 10]
    assert [row["next_try_at"] for row in rows] == [None, None, made_at, made_at]
    # Nobody sends to what is configured no more; what it refused stays refused.
    assert views.stuck_groups(database, []) == [
        ("NO DESTINATION", "pacs", 2, made_at),
        ("QUARANTINED", "vna", 2, made_at + 100),
    ]


def test_failed_images_and_studies_are_listed_too(
    database: Database, arrival: Callable[..., Arrival], model: ModelIdentity
) -> None:
    instances.register(database, [arrival()], 0)
    claim = instances.claim_instances(database, 8)
    assert claim
    instances.finish_instances(
        database, claim.token, model, [Analysis(claim.items[0], None, "no pixel data")]
    )
    study = studies.claim_study(database)
    assert study
    studies.close_study(
        database, study.token, study.items[0], StudyState.FAILED, "no report", AuditKind.REPORT_FAILED
    )
    rows = views.stuck(database, [])
    assert [(row["what"], row["trouble"], row["reason"]) for row in rows] == [
        ("image", "FAILED", "no pixel data"),
        ("study", "FAILED", "no report"),
    ]


@pytest.mark.parametrize("which", ["all", "vna", "the number"])
def test_only_listed_deliveries_are_retried(database: Database, reported: None, which: str) -> None:
    answer(database, "vna", QUARANTINED)
    numbers = [row["id"] for row in views.stuck(database, ["pacs", "vna"])]
    if which == "the number":
        which = str(numbers[0])
        numbers = numbers[:1]
    assert deliveries.retry(database, ["pacs", "vna"], which, "root") == len(numbers)
    claim = deliveries.claim_deliveries(database, "vna", 10)
    assert claim
    assert [(item.id, item.attempts) for item in claim.items] == [(number, 2) for number in numbers]
    events = events_of(database, "delivery_retried")
    assert [event.details["who"] for event in events] == ["root"] * len(numbers)
    assert all(event.sop_instance_uid for event in events)
    assert deliveries.retry(database, ["pacs", "vna"], "nobody", "root") == 0
    assert deliveries.retry(database, ["pacs", "vna"], "4711", "root") == 0


def test_a_discarded_delivery_is_not_sent_and_settles_its_study(database: Database, reported: None) -> None:
    answer(database, "pacs", DeliveryState.SENT)
    answer(database, "vna", QUARANTINED)
    assert views.studies(database, 1)[0]["state"] == "QUARANTINED"
    assert deliveries.discard(database, ["pacs", "vna"], "vna", "root", "the archive is full") == 2
    assert views.stuck(database, ["pacs", "vna"]) == []
    assert deliveries.claim_deliveries(database, "vna", 10) is None
    assert views.studies(database, 1)[0]["state"] == "DELIVERED"
    (first, _) = events_of(database, "delivery_discarded")
    assert (first.details["who"], first.details["reason"]) == ("root", "the archive is full")
    results = views.study(database, "1.2")["results"]  # type: ignore[index]
    assert {r["last_comment"] for r in results if r["destination"] == "vna"} == {
        "discarded by root: the archive is full"
    }
    assert deliveries.discard(database, [], "all", "root", "no such PACS") == 0
    # Its study tried again does not bring it back.
    assert studies.retry_study(database, "1.2", "root")
    assert deliveries.claim_deliveries(database, "vna", 10) is None


def test_a_study_without_any_delivery_is_not_delivered(database: Database, reported: None) -> None:
    assert deliveries.discard(database, [], "all", "root", "no PACS any more") == 4
    assert views.studies(database, 1)[0]["state"] == "REPORTED"


def test_a_retry_keeps_the_number_of_attempts(database: Database, reported: None) -> None:
    answer(database, "pacs", PENDING, times=3)
    assert studies.retry_study(database, "1.2", "root")
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim
    assert [item.attempts for item in claim.items] == [4, 4]
    (event,) = events_of(database, "retried")
    assert event.details == {"images": 0, "deliveries": 4, "new": False, "who": "root"}


def test_a_retry_does_not_send_delivered_results_again(database: Database, reported: None) -> None:
    answer(database, "pacs", DeliveryState.SENT)
    assert studies.retry_study(database, "1.2", "root")
    assert deliveries.claim_deliveries(database, "pacs", 10) is None
    assert len(deliveries.claim_deliveries(database, "vna", 10).items) == 2  # type: ignore[union-attr]


def test_a_renewed_report_replaces_undelivered_results(database: Database, reported: None) -> None:
    answer(database, "pacs", DeliveryState.SENT)
    answer(database, "vna", QUARANTINED)
    assert studies.retry_study(database, "1.2", "root", new=True)
    assert views.stuck(database, ["pacs", "vna"]) == []
    claim = studies.claim_study(database)
    assert claim
    (study,) = claim.items
    assert (study.revision, study.renewed) == (2, 2)
    assert deliveries.informed(database, study) == {"pacs"}


def test_a_reanalysis_covers_every_image_the_model_has_seen(
    database: Database, arrival: Callable[..., Arrival], reported: None, steps: Steps
) -> None:
    instances.register(database, [arrival("1.2.6", "f" * 64)], 0)
    claim = instances.claim_instances(database, 8)
    assert claim
    skipped = [Analysis(claim.items[0], None, "outside the model's scope", skipped=True)]
    assert instances.finish_instances(database, claim.token, steps.model, skipped)
    instances.register(
        database, [arrival("1.2.4", "d" * 64), arrival("1.2.5", "e" * 64, skip_reason="no")], 0
    )
    claim = instances.claim_instances(database, 8)
    assert claim
    assert studies.retry_study(database, "1.2", "root", reanalyze=True)
    (event,) = events_of(database, "reanalyzed")
    assert event.details == {"images": 2, "deliveries": 4, "new": True, "who": "root"}
    assert views.last_findings(database, studies.study_instances(database, "1.2")) == {}
    assert steps.finish(claim) == 1
    steps.report()
    every = studies.study_instances(database, "1.2")
    assert [last.finding.probability for last in views.last_findings(database, every).values()] == [
        0.1234
    ] * 3
    assert len(events_of(database, "analyzed")) == 4
    assert views.counts(database)["instances"] == {"ANALYZED": 3, "SKIPPED": 1}
