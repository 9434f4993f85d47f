"""Calendar work is done when due, by one of several processes, and its failures are on record."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.journal import Clock

from pacs_node import config
from pacs_node.config import ScheduleSettings, Settings, ValidationSettings
from pacs_node.errors import ConfigError
from pacs_node.journal import audit, processes, queue
from pacs_node.journal.database import Database, open_database
from pacs_node.operate import housekeeping, validation
from pacs_node.operate.housekeeping import Calendar, trigger
from pacs_node.records import AuditEvent
from pacs_node.roles import housekeep

WaitUntil = Callable[..., None]


def make(database: Database, job: Callable[[], object], cron: str = "0 5 * * *") -> Calendar:
    def work() -> dict[str, object]:
        return {"did": job()}

    return Calendar(database, ScheduleSettings(validation=cron), {"validation": work})


def due_now(calendar: Calendar) -> None:
    """Let the real scheduler find its job due."""
    calendar.scheduler.modify_job("validation", next_run_time=datetime.now(UTC))


def test_a_job_that_is_due_is_done_and_audited(database: Database, wait_until: WaitUntil) -> None:
    with make(database, lambda: validation.run(database, ValidationSettings()).verdict) as calendar:
        assert validation.last(database) is None
        due_now(calendar)
        wait_until(lambda: housekeeping.last(database, "validation"))
    event = validation.last(database)
    assert event is not None
    assert event.event == "validation_too_few"
    did = housekeeping.last(database, "validation")
    assert did["did"] == "too_few"
    assert did["seconds"] >= 0


def test_what_was_due_while_nothing_ran_is_made_up_for_once(
    database: Database, clock: Clock, wait_until: WaitUntil
) -> None:
    done: list[str] = []
    clock.now = datetime.now(UTC).timestamp() - 2 * 86_400
    with make(database, lambda: done.append("never done before")):
        pass
    housekeeping.run(database, "validation", dict)
    clock.now += 2 * 86_400
    with make(database, lambda: done.append("made up for")) as calendar:
        wait_until(lambda: done)
        wait_until(lambda: housekeeping.last(database, "validation"))
        assert calendar.scheduler.get_job("validation").next_run_time > datetime.now(UTC)
    with make(database, lambda: done.append("not due")):
        pass
    assert done == ["made up for"]


def test_one_of_several_does_the_work_until_it_ends_or_dies(
    database: Database, clock: Clock, wait_until: WaitUntil
) -> None:
    done: list[str] = []
    with make(database, lambda: done.append("second")) as second:
        first = make(database, lambda: done.append("first"))
        assert not first.lead()
        with first:
            for calendar in (first, second):
                due_now(calendar)
            wait_until(lambda: "second" in done)
        # The first has ended, so that its job, too, is over: it was not its turn.
        assert done == ["second"]
        clock.now += queue.LEASE_SECONDS - 1
        assert second.lead()
        clock.now += queue.LEASE_SECONDS - 1
        assert not first.lead()
        clock.now += 1
        assert first.lead()
        assert not second.lead()
    assert first.lead()
    processes.hand_over(database, "calendar", "nobody's")
    assert not second.lead()


def test_ending_hands_the_calendar_over(database: Database) -> None:
    with make(database, list):
        pass
    assert make(database, list).lead()


def test_a_job_that_fails_is_audited_by_its_kind_and_goes_on(
    database: Database, wait_until: WaitUntil
) -> None:
    def fail() -> None:
        raise RuntimeError("Mr. X")

    def failures() -> list[AuditEvent]:
        return [event for event in audit.events(database) if event.event == "calendar_failed"]

    with make(database, fail) as calendar:

        def again() -> bool:
            due_now(calendar)
            return len(failures()) > 1

        wait_until(again)
    assert failures()[0].details == {"job": "validation", "why": "unexpected RuntimeError"}


@pytest.mark.parametrize("cron", ["0 5 * *", "0 5 * * 1", "0 5 * * 1-5", "0 5 * * mon,3", "daily"])
def test_a_schedule_without_five_plain_fields_is_refused(tmp_path: Path, cron: str) -> None:
    (tmp_path / "config.toml").write_text(f'[schedule]\nvalidation = "{cron}"\n')
    with pytest.raises(ConfigError, match=r"schedule\.validation: must be empty or five cron fields"):
        config.load(tmp_path / "config.toml")


def test_a_time_that_is_none_is_refused_and_an_empty_one_is_never() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.validation: '61 5"):
        trigger("validation", ScheduleSettings(validation="61 5 * * *").validation)
    assert trigger("validation", ScheduleSettings(validation="").validation) is None
    weekdays = trigger("validation", ScheduleSettings(validation="*/5 5 * * mon-fri").validation)
    assert weekdays is not None
    saturday = datetime(2026, 3, 7, tzinfo=UTC)
    assert weekdays.get_next_fire_time(None, saturday).strftime("%a %H:%M") == "Mon 05:00"


def test_the_role_says_that_it_is_ready_and_leaves_nothing_behind(
    tmp_path: Path, wait_until: WaitUntil
) -> None:
    settings = Settings.model_validate({"storage": {"path": tmp_path}, "schedule": {"validation": ""}})
    database = open_database(settings.database_url)
    stop = threading.Event()
    role = threading.Thread(target=housekeep.run, args=(settings, stop))
    role.start()
    wait_until(lambda: [one.role for one in processes.running(database) if one.ready] == ["housekeep"])
    assert not processes.lead(database, "calendar", "another")
    stop.set()
    role.join()
    assert processes.running(database) == []
    assert processes.lead(database, "calendar", "another")
    database.close()


def test_the_details_of_a_validation_are_json(database: Database) -> None:
    validation.run(database, ValidationSettings())
    event = validation.last(database)
    assert event is not None
    assert json.loads(json.dumps(event.details))["verdict"] == "too_few"
