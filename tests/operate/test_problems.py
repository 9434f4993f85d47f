"""The one list of problems: what is in it, what is not, in which order, and how it is dismissed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import phantom
from support.bench import PACS, Bench
from support.journal import Clock

from pacs_node.config import Destination, ScheduleSettings, Settings, StorageSettings, WebSettings
from pacs_node.deliver import sender
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, instances, processes, studies
from pacs_node.journal.database import Database
from pacs_node.operate import housekeeping
from pacs_node.operate.problems import Problem, ProblemKind, Severity, dismiss, problems, readiness
from pacs_node.records import Arrival, AuditKind, RunningRole, StudyState


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "storage")


@pytest.fixture
def settings(files: FileStore) -> Settings:
    return Settings(
        destinations=(Destination.model_validate(PACS),),
        storage=StorageSettings(path=files.root, min_free_gb=0),
        web=WebSettings(enabled=False),
    )


@pytest.fixture
def bench(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Bench]:
    """A node without a network; nobody listens at the port of its destination."""
    bench = Bench(tmp_path / "bench", destinations=[{**PACS, "port": free_port()}])
    yield bench
    bench.close()


@pytest.fixture
def listed(
    settings: Settings, database: Database, files: FileStore
) -> Callable[[], list[tuple[ProblemKind, str]]]:
    """The problems of a node whose roles all run."""

    def now() -> list[tuple[ProblemKind, str]]:
        for role in processes.ROLES:
            processes.beat(database, RunningRole(role, "elsewhere", 1, "", ready=True))
        return [(problem.kind, problem.subject) for problem in problems(settings, database, files)]

    return now


Listed = Callable[[], list[tuple[ProblemKind, str]]]


def fail_study(database: Database, arrival: Callable[..., Arrival], uid: str) -> None:
    """Have the report of a study fail for good."""
    instances.register(
        database, [arrival(f"{uid}.1", uid.rjust(64, "a"), study_instance_uid=uid, skip_reason="x")], 0
    )
    claim = studies.claim_study(database)
    assert claim
    (study,) = claim.items
    assert studies.close_study(
        database, claim.token, study, StudyState.FAILED, "two patients", AuditKind.STUDY_FAILED
    )


def test_a_journal_of_another_version_is_the_only_problem(
    settings: Settings, database: Database, files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacs_node.journal.database.REVISION", "9999")
    (problem,) = problems(settings, database, files)
    assert str(problem) == "journal: not at the schema of this version"


def test_readiness_is_part_of_the_list(settings: Settings, database: Database, files: FileStore) -> None:
    blocking = list(readiness(settings, database, files))
    assert [problem.subject for problem in blocking] == [*processes.ROLES]
    assert all(problem in problems(settings, database, files) for problem in blocking)
    assert not any(problem.dismissible for problem in blocking)


def test_a_destination_that_a_send_could_not_reach_is_down_until_one_can(
    listed: Listed, database: Database, clock: Clock
) -> None:
    assert listed() == []
    for why in ("pacs: connection refused", "pacs: connection refused", "pacs: no route"):
        clock.now += 60
        deliveries.record_reach(database, "pacs", why)
    assert listed() == [("destination", "pacs")]
    down = deliveries.reach(database, "pacs")
    assert down is not None
    assert down.at == clock.now - 120, "down since the first failure"
    deliveries.record_reach(database, "pacs", None)
    deliveries.record_reach(database, "pacs", None)
    assert listed() == []
    kinds = [event.event for event in audit.events(database)]
    assert kinds == ["destination_unreachable", "destination_reachable"]


def test_the_node_s_own_deliveries_tell_whether_a_destination_is_down(
    bench: Bench,
) -> None:
    bench.receive(phantom.dataset(1, rows=160, columns=128))
    bench.work()
    claim = deliveries.claim_deliveries(bench.database, "pacs", 10)
    assert claim
    (destination,) = bench.settings.destinations
    assert not sender.send(bench.database, bench.files, destination, "NODE", claim)
    found = problems(bench.settings, bench.database, bench.files)
    (down,) = (problem for problem in found if problem.kind == ProblemKind.DESTINATION)
    assert down.subject == "pacs"
    assert down.message.startswith("unreachable: ")


def test_failed_studies_are_listed_newest_first_until_dismissed(
    listed: Listed, database: Database, clock: Clock, arrival: Callable[..., Arrival]
) -> None:
    for uid in ("2.1", "2.2"):
        clock.now += 60
        fail_study(database, arrival, uid)
    assert listed() == [("study", "2.2"), ("study", "2.1")]
    clock.now += 60
    dismiss(database, "study", "2.2", "anna")
    assert listed() == [("study", "2.1")]
    (event,) = audit.events(database, kind=AuditKind.PROBLEM_DISMISSED)
    assert event.details == {"kind": "study", "subject": "2.2", "who": "anna"}
    clock.now += 60
    assert studies.retry_study(database, "2.2", "anna")
    assert listed() == [("study", "2.1")]
    fail_again = studies.claim_study(database)
    assert fail_again
    (study,) = fail_again.items
    studies.close_study(database, fail_again.token, study, StudyState.FAILED, "again", AuditKind.STUDY_FAILED)
    assert listed() == [("study", "2.2"), ("study", "2.1")], "it failed again after the dismissal"


def test_images_that_a_report_names_as_not_analyzed_need_no_action(
    bench: Bench,
) -> None:
    good, broken = (phantom.dataset(seed, rows=160, columns=128) for seed in (1, 2))
    broken.Rows *= 2
    for image in (good, broken):
        bench.receive(image)
    bench.work()
    states = {image["state"] for seed in (good, broken) for image in bench.study(seed)["instances"]}
    assert states == {"ANALYZED", "FAILED"}
    found = problems(bench.settings, bench.database, bench.files)
    assert [problem for problem in found if problem.kind == ProblemKind.STUDY] == []


def test_a_job_is_listed_while_its_last_run_failed(listed: Listed, database: Database, clock: Clock) -> None:
    def fail() -> dict[str, object]:
        raise OSError("disk")

    for job in ("backup", "disk"):
        with pytest.raises(OSError, match="disk"):
            housekeeping.run(database, job, fail)
    assert listed() == [("job", "backup"), ("job", "disk")]
    housekeeping.run(database, "disk", dict)
    dismiss(database, "job", "backup", "anna")
    assert listed() == []
    clock.now += 60
    with pytest.raises(OSError, match="disk"):
        housekeeping.run(database, "backup", fail)
    assert listed() == [("job", "backup")]


def test_a_backup_that_missed_two_of_its_times_is_too_old(
    settings: Settings, database: Database, files: FileStore, clock: Clock
) -> None:
    daily = settings.model_copy(update={"schedule": ScheduleSettings(backup="0 3 * * *")})
    never = settings.model_copy(update={"schedule": ScheduleSettings(backup="")})

    def kinds(settings: Settings) -> set[ProblemKind]:
        return {problem.kind for problem in problems(settings, database, files)}

    assert ProblemKind.BACKUP not in kinds(daily), "there was no backup yet"
    housekeeping.run(database, "backup", dict)
    clock.now += 24 * 3600
    assert ProblemKind.BACKUP not in kinds(daily)
    clock.now += 25 * 3600
    assert ProblemKind.BACKUP in kinds(daily)
    assert ProblemKind.BACKUP not in kinds(never)


def test_a_jump_of_the_clock_and_an_alarm_of_the_validation_are_warnings(
    settings: Settings, listed: Listed, database: Database, files: FileStore, clock: Clock
) -> None:
    database.audit(AuditKind.CLOCK_JUMPED, seconds=60)
    database.audit(AuditKind.VALIDATION_ALARM, checks=[])
    assert {kind for kind, _ in listed()} == {ProblemKind.CLOCK, ProblemKind.VALIDATION}
    assert {problem.severity for problem in problems(settings, database, files)} == {Severity.WARN}
    clock.now += 2 * 86_400
    database.audit(AuditKind.VALIDATION_PASSED, checks=[])
    assert listed() == []


def test_failures_come_before_warnings_and_the_present_before_the_past(
    settings: Settings, database: Database, files: FileStore, arrival: Callable[..., Arrival]
) -> None:
    database.audit(AuditKind.CLOCK_JUMPED, seconds=60)
    fail_study(database, arrival, "2.1")
    found = problems(settings, database, files)
    assert [problem.kind for problem in found] == ["role"] * 4 + ["study", "clock"]


def test_a_page_without_its_server_is_a_warning(
    settings: Settings, database: Database, files: FileStore
) -> None:
    served = settings.model_copy(update={"web": WebSettings()})
    expected = Problem(
        ProblemKind.ROLE, Severity.WARN, "web", "no pages are served", "the log of this role says why"
    )
    assert expected in problems(served, database, files)
    assert replace(expected, message="") not in problems(settings, database, files)
