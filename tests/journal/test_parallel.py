"""Several processes at work on one journal: nothing is done twice or lost, and nothing waits for ever."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.journal import Steps

from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, instances, processes, queue, studies, views
from pacs_node.journal.database import Database
from pacs_node.records import (
    Arrival,
    DeliveryState,
    Finding,
    InstanceState,
    ModelIdentity,
    RunningRole,
)

WORKERS = 3

Make = Callable[..., Arrival]


@pytest.fixture
def several(journal_url: str, database: Database) -> Iterator[list[Database]]:
    """One journal opened several times, as by several processes."""
    opened = [Database(journal_url, database.clock) for _ in range(WORKERS)]
    yield opened
    for database in opened:
        database.close()


def at_once(jobs: Sequence[Callable[[], object]]) -> list[object]:
    """Run jobs in threads that begin together; returns their results, raises their errors."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> object:
        barrier.wait(30)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [done.result(60) for done in [pool.submit(run, job) for job in jobs]]


def test_no_image_is_claimed_twice(database: Database, several: list[Database], arrival: Make) -> None:
    instances.register(database, [arrival(f"1.{n}", f"{n:064x}") for n in range(60)], 0)
    claimed: list[int] = []

    def work(mine: Database) -> None:
        while claim := instances.claim_instances(mine, 4):
            claimed.extend(item.id for item in claim.items)

    at_once([lambda mine=mine: work(mine) for mine in several])  # type: ignore[misc]
    assert sorted(claimed) == sorted(set(claimed))
    # What another held while we looked comes with the next look.
    work(database)
    assert len(claimed) == 60


def test_whole_studies_pass_through_once(
    database: Database, several: list[Database], arrival: Make, model: ModelIdentity, finding: Finding
) -> None:
    """Workers, deliverers and heartbeats side by side; each study is reported once, each result sent once."""
    arrivals = [
        arrival(f"{study}.{n}", f"{study}{n:060x}", study_instance_uid=str(study))
        for study in range(10, 16)
        for n in range(2)
    ]
    instances.register(database, arrivals, 0)
    sent: Counter[str] = Counter()

    def settled() -> bool:
        states = views.counts(database)["deliveries"]
        return states.get(DeliveryState.SENT, 0) == 12

    def work(mine: Database) -> None:
        steps = Steps(mine, model, finding)
        for _ in range(500):
            if claim := instances.claim_instances(mine, 2):
                queue.renew(mine, [claim.token])
                steps.finish(claim)
            if report := studies.claim_study(mine):
                queue.renew(mine, [report.token])
                assert steps.finish_report(report, ("pacs",))
            if out := deliveries.claim_deliveries(mine, "pacs", 10):
                assert len({item.study_id for item in out.items}) == 1
                for item in out.items:
                    sent[item.sop_instance_uid] += 1
                    assert deliveries.finish_delivery(mine, out.token, item, DeliveryState.SENT, 0, "")
            if settled():
                return

    at_once([lambda mine=mine: work(mine) for mine in several])  # type: ignore[misc]
    assert settled()
    assert set(sent.values()) == {1}
    assert len(sent) == 12
    kinds = Counter(event.event for event in audit.events(database))
    assert kinds == {"received": 12, "analyzed": 12, "reported": 6, "sent": 12}
    assert audit.verify(database)[1] is None


def test_two_processes_do_not_share_a_study_for_delivery(
    database: Database, several: list[Database], arrival: Make, model: ModelIdentity, finding: Finding
) -> None:
    """One process sends all due results of a study: the SCs then arrive before the SR."""
    for n in range(12):
        uid = str(100 + n)
        instances.register(database, [arrival(f"{uid}.1", f"{uid}a", study_instance_uid=uid)], 0)
        Steps(database, model, finding).report(("pacs",))
        claims = at_once(
            [lambda mine=mine: deliveries.claim_deliveries(mine, "pacs", 10) for mine in several]  # type: ignore[misc]
        )
        assert [len(claim.items) for claim in claims if claim] == [2]  # type: ignore[attr-defined]


def test_work_can_be_finished_while_its_lease_is_renewed(
    database: Database, several: list[Database], arrival: Make, model: ModelIdentity, finding: Finding
) -> None:
    """The heartbeat renews the very rows that the worker finishes, in the opposite order."""
    instances.register(database, [arrival(f"1.{n}", f"{n:064x}") for n in range(80)], 0)
    made = [instances.claim_instances(database, 40) for _ in range(2)]
    claims = [queue.Claim(claim.token, claim.items[::-1]) for claim in made if claim]
    tokens = [claim.token for claim in claims]

    def finish() -> int:
        return sum(Steps(several[0], model, finding).finish(claim) for claim in claims)

    def renew() -> None:
        for _ in range(10):
            queue.renew(several[1], tokens)

    done, _ = at_once([finish, renew])
    assert done == 80
    assert queue_is_free(database)


def queue_is_free(database: Database) -> bool:
    return instances.claim_instances(database, 8) is None


def test_receivers_register_the_same_study_at_once(
    database: Database, several: list[Database], arrival: Make
) -> None:
    """Two studies, every image sent to every receiver, in batches of another order each."""
    images = [(str(study), n) for n in range(12) for study in (7, 8)]

    def register(number: int) -> None:
        ordered = images if number % 2 else images[::-1]
        for start in range(0, len(ordered), 6):
            batch = [
                arrival(
                    f"{study}.{n}",
                    f"{study}{n:063x}",
                    study_instance_uid=study,
                    received_at=1_000_000.0 + number,
                )
                for study, n in ordered[start : start + 6]
            ]
            instances.register(several[number], batch, 0)

    at_once([lambda number=number: register(number) for number in range(WORKERS)])  # type: ignore[misc]
    assert views.counts(database)["instances"] == {InstanceState.RECEIVED: 24}
    assert [views.study(database, study)["revision"] for study in ("7", "8")] == [12, 12]  # type: ignore[index]
    kinds = Counter(event.event for event in audit.events(database))
    assert kinds == {"received": 24, "duplicate_received": 24 * (WORKERS - 1)}
    assert audit.verify(database)[1] is None


def test_receivers_register_the_same_studies_in_any_order(
    database: Database, several: list[Database], arrival: Make
) -> None:
    for turn in range(4):
        batch = [
            arrival(f"{turn}.{n}.1", f"{turn}{n:063x}", study_instance_uid=f"{turn}.{n}") for n in range(60)
        ]
        orders = [batch, batch[::-1]]
        at_once(
            [
                lambda mine=mine, order=order: instances.register(mine, order, 0)  # type: ignore[misc]
                for mine, order in zip(several, orders, strict=False)
            ]
        )
    assert views.counts(database)["studies"] == {"OPEN": 240}
    assert [event.event for event in audit.events(database)] == ["received"] * 240


def test_an_arrival_registered_by_all_receivers_counts_once(
    database: Database, several: list[Database], arrival: Make
) -> None:
    batch = [arrival(f"1.{n}", f"{n:064x}") for n in range(10)]
    at_once([lambda mine=mine: instances.register(mine, batch, 0) for mine in several])  # type: ignore[misc]
    assert views.study(database, "1.2")["revision"] == 10  # type: ignore[index]
    assert [event.event for event in audit.events(database)] == ["received"] * 10


def test_an_image_that_comes_in_while_its_study_is_reported_is_never_lost(
    database: Database, several: list[Database], arrival: Make, model: ModelIdentity, finding: Finding
) -> None:
    """Either the report is discarded, or the study is opened again."""
    steps = Steps(several[0], model, finding)
    for n in range(8):
        uid = str(100 + n)
        instances.register(database, [arrival(f"{uid}.1", f"{uid}a", study_instance_uid=uid)], 0)
        steps.analyze()
        claim = studies.claim_study(database)
        assert claim is not None
        late = arrival(f"{uid}.2", f"{uid}b", study_instance_uid=uid)
        made, _ = at_once(
            [
                lambda claim=claim: steps.finish_report(claim),  # type: ignore[misc]
                lambda late=late: instances.register(several[1], [late], 0),  # type: ignore[misc]
            ]
        )
        study = views.study(database, uid)
        assert study is not None
        assert (study["state"], study["revision"]) == ("OPEN", 2)
        assert len(study["reports"]) == int(bool(made))
        steps.report()


def test_a_claim_that_waited_for_a_registration_sees_its_image(
    journal_url: str,
    database: Database,
    several: list[Database],
    arrival: Make,
    model: ModelIdentity,
    finding: Finding,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    """The rarest order, made to happen: the claim looks, the image comes in, the claim takes the row."""
    if journal_url.startswith("sqlite"):
        return
    instances.register(database, [arrival()], 0)
    Steps(database, model, finding).analyze()
    monkeypatch.setattr(queue, "locked", lambda query, row: query.with_for_update(of=row))
    waiting = sa.text(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def waits() -> bool:
        with several[1].read() as connection:
            return connection.execute(waiting).first() is not None

    with ThreadPoolExecutor(1) as pool, database.write() as t:
        t.execute(sa.text("UPDATE studies SET revision = revision + 1"))
        claim = pool.submit(studies.claim_study, several[0])
        wait_until(waits)
        t.execute(sa.text("UPDATE instances SET state = 'RECEIVED'"))
        t.connection.commit()
        assert claim.result(30) is None


def test_only_one_process_leads(database: Database, several: list[Database]) -> None:
    for name in ("calendar", "other"):
        took = at_once(
            [lambda n=n, mine=mine: processes.lead(mine, name, str(n)) for n, mine in enumerate(several)]  # type: ignore[misc]  # noqa: B023
        )
        assert took.count(True) == 1
        assert processes.lead(database, name, str(took.index(True)))
        assert not processes.lead(database, name, str(1 + took.index(True)))


def test_all_processes_see_the_same_identity(database: Database, several: list[Database]) -> None:
    known = at_once([lambda mine=mine: mine.identity("A") for mine in several])  # type: ignore[misc]
    assert len(set(known)) == 1


def test_processes_beat_side_by_side(database: Database, several: list[Database]) -> None:
    def beat(number: int) -> None:
        role = RunningRole("worker", "elsewhere", number, "", ready=True)
        for _ in range(5):
            processes.beat(several[number], role)

    at_once([lambda number=number: beat(number) for number in range(WORKERS)])  # type: ignore[misc]
    assert [role.pid for role in processes.running(database)] == list(range(WORKERS))


def test_one_receiver_at_a_time_empties_the_shared_spool(tmp_path: Path) -> None:
    first, second = FileStore(tmp_path), FileStore(tmp_path)
    with first.intake() as locked:
        assert locked
        with second.intake() as theirs:
            assert not theirs
    with second.intake() as theirs:
        assert theirs
