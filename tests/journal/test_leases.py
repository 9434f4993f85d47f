"""Leases and due times when the clock jumps, and when a process is gone."""

from collections.abc import Callable

from support.journal import Clock

from pacs_node.journal import audit, instances, processes, queue, studies
from pacs_node.journal.database import Database
from pacs_node.records import Arrival, RunningRole

HOUR = 3600.0


def test_a_lease_from_before_a_clock_change_does_not_count(
    database: Database, clock: Clock, arrival: Callable[..., Arrival]
) -> None:
    instances.register(database, [arrival()], 0)
    assert instances.claim_instances(database, 8)
    assert processes.lead(database, "calendar", "gone")
    processes.beat(database, RunningRole("worker", "elsewhere", 1, "", ready=True))
    clock.now -= HOUR
    assert processes.running(database) == []
    assert processes.lead(database, "calendar", "mine")
    assert not processes.lead(database, "calendar", "gone")
    assert instances.claim_instances(database, 8) is None
    assert queue.shift(database, HOUR) == 2
    assert instances.claim_instances(database, 8)


def test_a_small_clock_change_keeps_live_leases(
    database: Database, clock: Clock, arrival: Callable[..., Arrival]
) -> None:
    instances.register(database, [arrival(received_at=1.0)], 0)
    clock.now += HOUR
    assert instances.claim_instances(database, 8)
    assert processes.lead(database, "calendar", "first")
    clock.now -= queue.LEASE_SECONDS / 2
    assert instances.claim_instances(database, 8) is None
    assert not processes.lead(database, "calendar", "second")


def test_due_rows_stay_due_after_a_clock_change(
    database: Database, clock: Clock, arrival: Callable[..., Arrival]
) -> None:
    instances.register(database, [arrival(skip_reason="no X-ray")], 60.0)
    clock.now -= HOUR
    queue.shift(database, HOUR)
    assert studies.claim_study(database) is None
    clock.now += 60.0
    assert studies.claim_study(database) is not None
    (*_, event) = audit.events(database)
    assert (event.event, event.details) == ("clock_jumped", {"seconds": -HOUR, "shifted": 2})


def test_a_handed_over_lease_is_free_at_once(database: Database) -> None:
    assert processes.lead(database, "calendar", "first")
    processes.hand_over(database, "calendar", "second")
    assert not processes.lead(database, "calendar", "second")
    processes.hand_over(database, "calendar", "first")
    assert processes.lead(database, "calendar", "second")
