"""How a PACS's count of a study's images changes the quiet period, and how it is reported."""

from collections.abc import Callable

import pytest
from support.journal import Clock, Steps

from pacs_node.journal import audit, instances, studies, views
from pacs_node.journal.database import Database
from pacs_node.journal.studies import QuietStudy
from pacs_node.records import Arrival, Finding, ModelIdentity

QUIET = 60.0
XRAYS = ("CR", "DX")


@pytest.fixture
def steps(database: Database, model: ModelIdentity, finding: Finding) -> Steps:
    return Steps(database, model, finding)


def due(database: Database) -> QuietStudy | None:
    return studies.next_to_count(database, QUIET, XRAYS)


def record(database: Database, study: QuietStudy | None, expected: int, *missing: str) -> bool:
    assert study is not None
    return studies.record_count(database, study, QUIET, "pacs", expected, missing)


@pytest.fixture
def study(
    database: Database, clock: Clock, arrival: Callable[..., Arrival], steps: Steps
) -> QuietStudy | None:
    """A study of two images and a report, all analyzed, a quarter of its quiet period ago."""
    sr = arrival("1.2.9", "c", modality="SR", skip_reason="not an X-ray image", series_instance_uid="1.2.8")
    instances.register(database, [arrival("1.2.3", "a"), arrival("1.2.4", "b"), sr], QUIET)
    steps.analyze()
    clock.now += QUIET / 4
    return due(database)


def test_no_count_before_a_quarter_of_the_quiet_period_or_while_images_wait(
    database: Database, clock: Clock, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival()], QUIET)
    clock.now += QUIET / 4
    assert due(database) is None
    steps.analyze()
    assert due(database) is not None
    clock.now -= 1
    assert due(database) is None
    clock.now += QUIET
    assert due(database) is None


def test_received_objects_are_grouped_by_series(study: QuietStudy | None) -> None:
    assert study is not None
    assert study.received == {"1.2.1": {"1.2.3", "1.2.4"}, "1.2.8": {"1.2.9"}}
    assert (study.images, study.senders) == (2, frozenset({"PACS"}))


def test_a_complete_study_is_due_at_once(database: Database, study: QuietStudy | None) -> None:
    assert studies.claim_study(database) is None
    assert record(database, study, 2)
    assert studies.claim_study(database) is not None
    (event,) = [event for event in audit.events(database) if event.event == "study_counted"]
    assert event.details == {
        "revision": 2,
        "destination": "pacs",
        "expected": 2,
        "received": 2,
        "missing": [],
        "complete": True,
    }


@pytest.mark.parametrize("expected", [0, 1])
def test_a_pacs_that_lags_behind_shortens_nothing(
    database: Database, study: QuietStudy | None, expected: int
) -> None:
    assert record(database, study, expected)
    assert studies.claim_study(database) is None


def test_a_partial_study_waits_and_lists_its_missing_images(
    database: Database, clock: Clock, study: QuietStudy | None, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    assert study is not None
    assert record(database, study, 4, "1.2.5", "1.2.6")
    assert due(database) is None
    view = views.study(database, "1.2")
    assert view is not None
    assert (view["expected"], view["missing"]) == (4, ["1.2.5", "1.2.6"])
    assert studies.count_missing_images(database, study.id) == 2

    instances.register(database, [arrival("1.2.6", "d")], QUIET)
    assert studies.count_missing_images(database, study.id) == 1
    steps.analyze()
    clock.now += QUIET / 4
    again = due(database)
    assert again is not None
    assert again.images == 3
    assert record(database, again, 4, "1.2.5")
    clock.now += QUIET
    assert studies.claim_study(database) is not None


def test_each_revision_is_counted_once_even_without_an_answer(
    database: Database, study: QuietStudy | None
) -> None:
    assert study is not None
    assert studies.record_count_failure(database, study, "pacs gave no association")
    assert not studies.record_count_failure(database, study, "pacs gave no association")
    assert due(database) is None
    assert studies.claim_study(database) is None
    assert [event.event for event in audit.events(database)].count("study_not_counted") == 1


def test_a_count_overtaken_by_an_image_is_discarded(
    database: Database, study: QuietStudy | None, arrival: Callable[..., Arrival], steps: Steps
) -> None:
    instances.register(database, [arrival("1.2.5", "d")], QUIET)
    assert not record(database, study, 2)
    steps.analyze()
    assert studies.claim_study(database) is None


def test_an_object_other_than_an_xray_also_extends_the_quiet_period(
    database: Database, clock: Clock, study: QuietStudy | None, arrival: Callable[..., Arrival]
) -> None:
    clock.now += 1
    late = arrival("1.2.10", "e", modality="SR", skip_reason="not an X-ray image")
    instances.register(database, [late], QUIET)
    assert record(database, study, 2)
    assert studies.claim_study(database) is None
    clock.now += QUIET / 4
    assert studies.claim_study(database) is not None
