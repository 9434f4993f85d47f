"""The three queues: claims, lost leases, late images, and retries."""

from collections.abc import Callable

import pytest
from support.journal import Steps

from pacs_node.journal import audit, deliveries, instances, queue, studies, views
from pacs_node.journal.database import Database
from pacs_node.records import (
    Analysis,
    Arrival,
    DeliveryState,
    Finding,
    InstanceState,
    ModelIdentity,
    StudyState,
)

QUIET = 60.0


@pytest.fixture
def steps(database: Database, model: ModelIdentity, finding: Finding) -> Steps:
    return Steps(database, model, finding)


def kinds(database: Database) -> list[str]:
    return [event.event for event in audit.events(database)]


def test_images_are_due_at_once_and_the_study_after_its_quiet_period(
    database: Database, clock: Callable[[], float], arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival("1.1", "a"), arrival("1.2", "b")], QUIET)
    assert studies.claim_study(database) is None
    steps.analyze()
    assert studies.claim_study(database) is None
    clock.now += QUIET  # type: ignore[attr-defined]
    claim = studies.claim_study(database)
    assert claim is not None
    assert claim.items[0].revision == 2


def test_a_skipped_xray_opens_its_study_again_and_no_other_skipped_object(
    database: Database, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival("1.1", "a")], 0)
    steps.report()
    instances.register(database, [arrival("1.2", "b", skip_reason="a screenshot")], 0)
    assert studies.claim_study(database) is None
    instances.register(database, [arrival("1.3", "c", skip_reason="a film", may_be_xray=True)], 0)
    claim = studies.claim_study(database)
    assert claim is not None
    assert claim.items[0].revision == 2


def test_a_batch_of_several_studies_keeps_them_apart(
    database: Database, clock: Callable[[], float], arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival("1.1", "a")], 0)
    steps.report()
    clock.now += 1  # type: ignore[attr-defined]
    instances.register(
        database,
        [
            arrival("2.1", "b", study_instance_uid="2", skip_reason="not an X-ray image"),
            arrival("3.1", "c", study_instance_uid="3"),
            arrival("1.1", "a"),
            arrival("3.2", "d", study_instance_uid="3"),
            arrival("3.2", "d", study_instance_uid="3", received_at=clock() + 1),
        ],
        QUIET,
    )
    rows = {row["study_instance_uid"]: row for row in views.studies(database, 10)}
    states = {uid: (row["state"], row["objects"]) for uid, row in rows.items()}
    assert states == {"1.2": ("REPORTED", 1), "2": ("OPEN", 1), "3": ("OPEN", 2)}
    assert [views.study(database, uid)["revision"] for uid in ("1.2", "2", "3")] == [1, 0, 2]  # type: ignore[index]
    assert kinds(database)[-6:] == [
        "received",
        "skipped",
        "received",
        "duplicate_received",
        "received",
        "duplicate_received",
    ]
    assert audit.verify(database)[1] is None


def test_a_study_waits_for_its_last_image(
    database: Database, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival("1.1", "a"), arrival("1.2", "b")], 0)
    claim = instances.claim_instances(database, 1)
    assert claim is not None
    steps.finish(claim)
    assert studies.claim_study(database) is None
    steps.analyze()
    assert studies.claim_study(database) is not None


def test_claimed_work_is_not_claimed_again_until_the_lease_ends(
    database: Database, clock: Callable[[], float], arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival()], 0)
    lost = instances.claim_instances(database, 8)
    assert lost is not None
    assert instances.claim_instances(database, 8) is None
    clock.now += queue.LEASE_SECONDS - 1  # type: ignore[attr-defined]
    queue.renew(database, [lost.token])
    clock.now += queue.LEASE_SECONDS - 1  # type: ignore[attr-defined]
    assert instances.claim_instances(database, 8) is None
    clock.now += 1  # type: ignore[attr-defined]
    taken = instances.claim_instances(database, 8)
    assert taken is not None
    assert steps.finish(lost) == 0
    assert steps.finish(taken) == 1
    assert kinds(database) == ["received", "analyzed"]


def test_an_image_that_failed_before_is_claimed_alone_and_last(
    database: Database, clock: Callable[[], float], arrival: Callable[..., Arrival]
) -> None:
    instances.register(database, [arrival("1.1", "a"), arrival("1.2", "b")], 0)
    claim = instances.claim_instances(database, 8)
    assert claim is not None
    instances.postpone_instances(database, claim, 10, "unexpected MemoryError")
    instances.register(database, [arrival("1.3", "c")], 0)
    fresh = instances.claim_instances(database, 8)
    assert fresh is not None
    assert [item.sop_instance_uid for item in fresh.items] == ["1.3"]
    assert instances.claim_instances(database, 8) is None
    clock.now += 10  # type: ignore[attr-defined]
    alone = [instances.claim_instances(database, 8) for _ in range(2)]
    assert [[item.sop_instance_uid for item in claim.items] for claim in alone if claim] == [["1.1"], ["1.2"]]


def test_a_finding_comes_back_as_it_was(
    database: Database,
    arrival: Callable[..., Arrival],
    steps: Steps,
    finding: Finding,
    model: ModelIdentity,
) -> None:
    instances.register(database, [arrival()], 0)
    steps.analyze()
    (study,) = studies.claim_study(database).items  # type: ignore[union-attr]
    images = studies.study_instances(database, study.study_instance_uid)
    kept = studies.findings(database, images, model)[images[0].id]
    assert kept.heat_map.values.tolist() == finding.heat_map.values.tolist()
    assert (kept.heat_map.origin, kept.heat_map.step) == (finding.heat_map.origin, finding.heat_map.step)
    assert (kept.probability, kept.content_key, kept.notes) == (0.1234, finding.content_key, ("a note",))


def test_the_same_bytes_again_are_only_audited(
    database: Database, clock: Callable[[], float], arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival()], 0)
    steps.report()
    again = [arrival(received_at=clock() + seconds) for seconds in (1, 2)]
    instances.register(database, again, 0)
    assert instances.claim_instances(database, 8) is None
    assert studies.claim_study(database) is None
    assert kinds(database)[-2:] == ["duplicate_received"] * 2


def test_an_arrival_registered_twice_counts_once(database: Database, arrival: Callable[..., Arrival]) -> None:
    for _ in range(2):
        instances.register(database, [arrival("1.1", "a"), arrival("1.2", "b", skip_reason="no X-ray")], 0)
    assert views.study(database, "1.2")["revision"] == 1  # type: ignore[index]
    assert kinds(database) == ["received", "received", "skipped"]


def test_a_late_image_opens_the_study_again_and_a_skipped_one_does_not(
    database: Database, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival("1.1", "a")], 0)
    steps.report()
    instances.register(database, [arrival("1.2", "b", skip_reason="own result")], 0)
    assert studies.claim_study(database) is None
    instances.register(database, [arrival("1.3", "c")], 0)
    steps.analyze()
    (study,) = studies.claim_study(database).items  # type: ignore[union-attr]
    states = {
        item.sop_instance_uid: item.state
        for item in studies.study_instances(database, study.study_instance_uid)
    }
    assert states == {
        "1.1": InstanceState.ANALYZED,
        "1.2": InstanceState.SKIPPED,
        "1.3": InstanceState.ANALYZED,
    }


def test_a_report_made_while_an_image_came_in_is_discarded(
    database: Database, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival("1.1", "a")], 0)
    steps.analyze()
    claim = studies.claim_study(database)
    assert claim is not None
    instances.register(database, [arrival("1.2", "b")], 0)
    assert not steps.finish_report(claim)
    assert views.study(database, "1.2")["results"] == []  # type: ignore[index]
    steps.analyze()
    again = studies.claim_study(database)
    assert again is not None
    assert steps.finish_report(again)


def test_the_newest_version_of_an_image_counts(
    database: Database, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival("1.1", "a", patient_id="OLD")], 0)
    instances.register(database, [arrival("1.1", "b", patient_id="NEW")], 0)
    steps.analyze()
    (study,) = studies.claim_study(database).items  # type: ignore[union-attr]
    (image,) = studies.study_instances(database, study.study_instance_uid)
    assert (image.patient_id, image.sha256) == ("NEW", "b")


def test_results_wait_for_their_destination_sc_before_sr(
    database: Database, clock: Callable[[], float], arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival()], 0)
    steps.report(destinations=("pacs", "vna"))
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim is not None
    assert [item.role for item in claim.items] == ["SC", "SR"]
    assert deliveries.claim_deliveries(database, "pacs", 10) is None
    sc, sr = claim.items
    deliveries.finish_delivery(database, claim.token, sc, DeliveryState.SENT, 0, "")
    deliveries.finish_delivery(database, claim.token, sr, DeliveryState.PENDING, None, "no answer", 5.0)
    assert deliveries.claim_deliveries(database, "pacs", 10) is None
    clock.now += 5  # type: ignore[attr-defined]
    again = deliveries.claim_deliveries(database, "pacs", 10)
    assert again is not None
    assert [(item.role, item.attempts) for item in again.items] == [("SR", 2)]
    assert len(deliveries.claim_deliveries(database, "vna", 10).items) == 2  # type: ignore[union-attr]


def test_people_see_ready_then_delivered_then_quarantined(
    database: Database, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival()], 0)
    steps.report(destinations=("pacs",))
    assert views.studies(database, 10)[0]["state"] == "READY"
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim is not None
    for item in claim.items:
        deliveries.finish_delivery(database, claim.token, item, DeliveryState.SENT, 0, "")
    assert views.studies(database, 10)[0]["state"] == "DELIVERED"


def test_a_retry_reopens_failed_work(
    database: Database, arrival: Callable[..., Arrival], model: ModelIdentity, steps: Steps
) -> None:
    instances.register(database, [arrival()], 0)
    claim = instances.claim_instances(database, 8)
    assert claim is not None
    instances.finish_instances(
        database, claim.token, model, [Analysis(claim.items[0], None, "no pixel data")]
    )
    (study,) = studies.claim_study(database).items  # type: ignore[union-attr]
    assert study.state == StudyState.OPEN
    assert not studies.retry_study(database, "9.9", "me")
    assert studies.retry_study(database, "1.2", "me")
    again = instances.claim_instances(database, 8)
    assert again is not None
    assert again.items[0].attempts == 1
