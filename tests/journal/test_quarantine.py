"""What needs somebody's eye, and what an administrator does about it."""

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
    """Have all that is due for a destination come out like this."""
    for _ in range(times):
        claim = deliveries.claim_deliveries(database, destination, 10)
        assert claim is not None
        for item in claim.items:
            assert deliveries.finish_delivery(database, claim.token, item, state, 0xA700, "as told", 0.0)


def told(database: Database, event: str) -> list[AuditEvent]:
    return [one for one in audit.events(database) if one.event == event]


def test_what_is_well_under_way_is_not_listed(database: Database, reported: None) -> None:
    answer(database, "pacs", PENDING, times=deliveries.STALLED_ATTEMPTS - 1)
    assert views.stuck(database, ["pacs", "vna"]) == []
    assert views.stuck_counts(database, ["pacs", "vna"]) == {}


def test_what_needs_somebody_is_listed_with_its_reason(
    database: Database, clock: Callable[[], float], reported: None
) -> None:
    answer(database, "pacs", PENDING, times=deliveries.STALLED_ATTEMPTS)
    made_at = clock.now  # type: ignore[attr-defined]
    clock.now += 100  # type: ignore[attr-defined]
    answer(database, "vna", QUARANTINED)
    rows = views.stuck(database, ["pacs", "vna"])
    assert [(row["destination"], row["trouble"], row["since_at"]) for row in rows] == [
        *[("pacs", "STALLED", made_at)] * 2,
        *[("vna", "QUARANTINED", made_at + 100)] * 2,
    ]
    assert {(row["last_status"], row["reason"]) for row in rows} == {(0xA700, "as told")}
    assert [row["attempts"] for row in rows] == [10, 10, 1, 1]
    assert [row["next_try_at"] for row in rows] == [made_at, made_at, None, None]
    # Nobody sends to what is configured no more; what it refused stays refused.
    assert views.stuck_counts(database, []) == {"NO DESTINATION": 2, "QUARANTINED": 2}


def test_failed_images_and_studies_are_listed_too(
    database: Database, arrival: Callable[..., Arrival], model: ModelIdentity
) -> None:
    instances.register(database, [arrival()], 0)
    claim = instances.claim_instances(database, 8)
    assert claim
    instances.finish_instances(
        database, claim.token, model, [Analysis(claim.items[0], None, "no pixel data")]
    )
    found = studies.claim_study(database)
    assert found
    studies.close_study(
        database, found.token, found.items[0], StudyState.FAILED, "no report", AuditKind.REPORT_FAILED
    )
    rows = views.stuck(database, [])
    assert [(row["what"], row["trouble"], row["reason"]) for row in rows] == [
        ("image", "FAILED", "no pixel data"),
        ("study", "FAILED", "no report"),
    ]


@pytest.mark.parametrize("which", ["all", "vna", "the number"])
def test_an_administrator_tries_again_what_is_listed_and_nothing_else(
    database: Database, reported: None, which: str
) -> None:
    answer(database, "vna", QUARANTINED)
    numbers = [row["id"] for row in views.stuck(database, ["pacs", "vna"])]
    if which == "the number":
        which = str(numbers[0])
        numbers = numbers[:1]
    assert deliveries.retry(database, ["pacs", "vna"], which, "root") == len(numbers)
    claim = deliveries.claim_deliveries(database, "vna", 10)
    assert claim
    assert [(item.id, item.attempts) for item in claim.items] == [(number, 2) for number in numbers]
    events = told(database, "delivery_retried")
    assert [event.details["who"] for event in events] == ["root"] * len(numbers)
    assert all(event.sop_instance_uid for event in events)
    assert deliveries.retry(database, ["pacs", "vna"], "nobody", "root") == 0
    assert deliveries.retry(database, ["pacs", "vna"], "4711", "root") == 0


def test_what_is_given_up_is_sent_no_more_and_settles_its_study(database: Database, reported: None) -> None:
    answer(database, "pacs", DeliveryState.SENT)
    answer(database, "vna", QUARANTINED)
    assert views.studies(database, 1)[0]["state"] == "QUARANTINED"
    assert deliveries.discard(database, ["pacs", "vna"], "vna", "root", "the archive is full") == 2
    assert views.stuck(database, ["pacs", "vna"]) == []
    assert deliveries.claim_deliveries(database, "vna", 10) is None
    assert views.studies(database, 1)[0]["state"] == "DELIVERED"
    (one, _) = told(database, "delivery_discarded")
    assert (one.details["who"], one.details["reason"]) == ("root", "the archive is full")
    results = views.study(database, "1.2")["results"]  # type: ignore[index]
    assert {r["last_comment"] for r in results if r["destination"] == "vna"} == {
        "discarded by root: the archive is full"
    }
    assert deliveries.discard(database, [], "all", "root", "no such PACS") == 0
    # Its study tried again does not bring it back.
    assert studies.retry_study(database, "1.2", "root")
    assert deliveries.claim_deliveries(database, "vna", 10) is None


def test_what_nobody_got_is_not_called_delivered(database: Database, reported: None) -> None:
    assert deliveries.discard(database, [], "all", "root", "no PACS any more") == 4
    assert views.studies(database, 1)[0]["state"] == "REPORTED"


def test_a_retry_keeps_count_of_what_was_attempted(database: Database, reported: None) -> None:
    answer(database, "pacs", PENDING, times=3)
    assert studies.retry_study(database, "1.2", "root")
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim
    assert [item.attempts for item in claim.items] == [4, 4]
    (event,) = told(database, "retried")
    assert event.details == {"images": 0, "deliveries": 4, "new": False, "who": "root"}


def test_what_was_delivered_is_not_sent_again_by_a_retry(database: Database, reported: None) -> None:
    answer(database, "pacs", DeliveryState.SENT)
    assert studies.retry_study(database, "1.2", "root")
    assert deliveries.claim_deliveries(database, "pacs", 10) is None
    assert len(deliveries.claim_deliveries(database, "vna", 10).items) == 2  # type: ignore[union-attr]


def test_new_objects_are_asked_for_and_the_old_ones_given_up(database: Database, reported: None) -> None:
    answer(database, "pacs", DeliveryState.SENT)
    answer(database, "vna", QUARANTINED)
    assert studies.retry_study(database, "1.2", "root", new=True)
    assert views.stuck(database, ["pacs", "vna"]) == []
    claim = studies.claim_study(database)
    assert claim
    (study,) = claim.items
    assert (study.revision, study.renewed) == (2, 2)
    assert deliveries.informed(database, study) == {"pacs"}


def test_the_model_is_asked_again_about_what_it_spoke_of_and_an_image_in_hand_goes_on(
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
    (event,) = told(database, "reanalyzed")
    assert event.details == {"images": 2, "deliveries": 4, "new": True, "who": "root"}
    assert views.last_findings(database, studies.study_instances(database, "1.2")) == {}
    assert steps.finish(claim) == 1
    steps.report()
    every = studies.study_instances(database, "1.2")
    assert [one.finding.probability for one in views.last_findings(database, every).values()] == [0.1234] * 3
    assert len(told(database, "analyzed")) == 4
    assert views.counts(database)["instances"] == {"ANALYZED": 3, "SKIPPED": 1}
