"""A result between its sending and the archive's commitment to keep it."""

from collections.abc import Callable

import pytest
from support.journal import Clock, Steps

from pacs_node.journal import audit, commitments, deliveries, instances, views
from pacs_node.journal.commitments import Commitment
from pacs_node.journal.database import Database
from pacs_node.records import Arrival, CommitmentReport, DeliveryState, Finding, ModelIdentity

SC, SR = "2.25.110", "2.25.111"
HOUR = 3600.0


@pytest.fixture
def send(
    database: Database, arrival: Callable[..., Arrival], model: ModelIdentity, finding: Finding
) -> Callable[..., None]:
    """Report study 1.2 unless that was done before, and send the results that are due."""

    def send(commitment: bool = True) -> None:
        if views.study(database, "1.2") is None:
            instances.register(database, [arrival()], 0)
            Steps(database, model, finding).report(("pacs",))
        claim = deliveries.claim_deliveries(database, "pacs", 10)
        assert claim is not None
        for item in claim.items:
            deliveries.finish_delivery(
                database, claim.token, item, DeliveryState.SENT, 0, "", commitment=commitment
            )

    return send


@pytest.fixture
def transaction(database: Database, send: Callable[..., None]) -> Commitment:
    send()
    begun = commitments.begin(database, "pacs", "1.9", HOUR)
    assert begun is not None
    return begun


def settle(database: Database, *committed: str, failed: tuple[str, ...] = (), uid: str = "1.9") -> bool:
    report = CommitmentReport(uid, frozenset(committed), dict.fromkeys(failed, "0x0112 no such object"))
    return commitments.settle(database, report, lambda attempts: 5.0 * attempts)


def visible(database: Database) -> tuple[str, list[str]]:
    study = views.study(database, "1.2")
    assert study is not None
    return study["state"], [result["state"] for result in study["results"]]


def kinds(database: Database) -> list[str]:
    return [event.event for event in audit.events(database)][5:]


def test_without_commitment_a_sent_result_is_delivered(database: Database, send: Callable[..., None]) -> None:
    send(commitment=False)
    assert visible(database) == ("DELIVERED", ["SENT", "SENT"])
    assert commitments.begin(database, "pacs", "1.9", HOUR) is None


def test_with_commitment_a_result_is_delivered_once_committed(
    database: Database, transaction: Commitment
) -> None:
    assert [item.sop_instance_uid for item in transaction.objects] == [SC, SR]
    assert transaction.study_instance_uid == "1.2"
    assert visible(database) == ("READY", ["SENT", "SENT"])
    assert settle(database, SC)
    assert visible(database) == ("READY", ["COMMITTED", "SENT"])
    assert commitments.is_open(database, "1.9")
    assert settle(database, SR)
    assert not commitments.is_open(database, "1.9")
    assert visible(database) == ("DELIVERED", ["COMMITTED", "COMMITTED"])
    assert views.studies(database, 10)[0]["state"] == "DELIVERED"
    assert kinds(database) == ["commitment_requested", "committed", "committed"]


def test_a_commitment_is_requested_once(database: Database, transaction: Commitment) -> None:
    assert commitments.begin(database, "pacs", "1.10", HOUR) is None
    assert commitments.overdue(database, "pacs") == []


def test_a_result_that_the_archive_does_not_keep_is_sent_again_later(
    database: Database, clock: Clock, transaction: Commitment, send: Callable[..., None]
) -> None:
    assert settle(database, SC, failed=(SR,))
    assert visible(database) == ("READY", ["COMMITTED", "PENDING"])
    assert deliveries.claim_deliveries(database, "pacs", 10) is None
    clock.now += 5
    send()
    again = commitments.begin(database, "pacs", "1.10", HOUR)
    assert again is not None
    assert [item.sop_instance_uid for item in again.objects] == [SR]
    assert settle(database, SR, uid="1.10")
    assert visible(database) == ("DELIVERED", ["COMMITTED", "COMMITTED"])
    assert kinds(database)[1:3] == ["committed", "commitment_failed"]


def test_a_repeated_answer_is_recognized_and_changes_nothing(
    database: Database, transaction: Commitment
) -> None:
    for _ in range(2):
        assert settle(database, SC, failed=(SR,))
    assert kinds(database)[1:] == ["committed", "commitment_failed"]


def test_an_archive_may_withdraw_its_commitment(database: Database, transaction: Commitment) -> None:
    assert settle(database, SC, SR)
    assert settle(database, failed=(SC,))
    assert visible(database) == ("READY", ["PENDING", "COMMITTED"])


def test_answers_about_other_transactions_are_ignored(database: Database, send: Callable[..., None]) -> None:
    send()
    assert not settle(database, SC, SR, uid=""), "nobody was asked yet"
    commitments.begin(database, "pacs", "1.9", HOUR)
    assert not settle(database, SC, SR, uid="9.9")
    assert settle(database, "4.4")
    assert visible(database) == ("READY", ["SENT", "SENT"])


def test_an_overdue_commitment_is_requested_again(
    database: Database, clock: Clock, transaction: Commitment
) -> None:
    clock.now += HOUR
    assert commitments.overdue(database, "other") == []
    assert commitments.overdue(database, "pacs") == [transaction]
    commitments.ask_again(database, transaction, 60.0, "the query failed")
    assert commitments.overdue(database, "pacs") == []
    assert commitments.begin(database, "pacs", "1.10", HOUR) is None
    clock.now += 60
    again = commitments.begin(database, "pacs", "1.10", HOUR)
    assert again is not None
    assert again.objects == transaction.objects
    assert not settle(database, SC)
    assert kinds(database)[1] == "commitment_postponed"


def test_a_request_waits_for_the_rest_of_the_study_to_be_sent(
    database: Database, arrival: Callable[..., Arrival], model: ModelIdentity, finding: Finding
) -> None:
    instances.register(database, [arrival()], 0)
    Steps(database, model, finding).report(("pacs",))
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim is not None
    for number, item in enumerate(claim.items):
        assert commitments.begin(database, "pacs", f"1.9.{number}", HOUR) is None
        deliveries.finish_delivery(database, claim.token, item, DeliveryState.SENT, 0, "", commitment=True)
    begun = commitments.begin(database, "pacs", "1.10", HOUR)
    assert begun is not None
    assert len(begun.objects) == 2


def test_commitments_no_longer_configured_are_waived(database: Database, send: Callable[..., None]) -> None:
    send()
    assert commitments.waive(database, ["pacs"]) == 0
    assert visible(database)[0] == "READY"
    assert commitments.waive(database, []) == 2
    assert commitments.waive(database, []) == 0
    assert visible(database)[0] == "DELIVERED"
    assert kinds(database) == ["commitments_waived"]
