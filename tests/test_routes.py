"""Routing of results: rules of destinations and peers, amended reports, and new objects on request."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from support import phantom
from support.bench import PACS, Bench

from pacs_node.config import Settings
from pacs_node.journal import studies, views
from pacs_node.records import Outcome

DESTINATIONS = (
    {"name": "everything"},
    {"name": "reports", "results": ["SR"]},
    {"name": "captures", "results": ["SC"]},
    {"name": "positives", "outcomes": ["POSITIVE"]},
    {"name": "negatives", "outcomes": ["NEGATIVE"]},
    {"name": "failures", "outcomes": ["FAILED"], "results": ["SR"]},
)


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """A node with `DESTINATIONS`, or these; a second one continues with the first one's journal."""
    made: list[Bench] = []

    def make(destinations: Sequence[dict[str, Any]] = DESTINATIONS) -> Bench:
        made.append(Bench(tmp_path, destinations=[PACS | rules for rules in destinations]))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def report_image(bench: Bench, image: FileDataset, probability: float) -> None:
    """Receive an image, analyze it with this probability, and report its study."""
    bench.model.probabilities = [probability]
    bench.receive(image)
    bench.work()


def results(bench: Bench, image: FileDataset) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = bench.study(image)["results"]
    return rows


def pending(bench: Bench, image: FileDataset) -> dict[str, list[str]]:
    """The roles of the results that are due at each destination, in the order of making."""
    roles: dict[str, list[str]] = {}
    for result in results(bench, image):
        if result["destination"] and result["state"] == "PENDING":
            roles.setdefault(result["destination"], []).append(result["role"])
    return roles


@pytest.mark.parametrize(
    ("outcome", "scs", "srs"),
    [
        (Outcome.POSITIVE, {"everything", "captures", "positives"}, {"everything", "reports", "positives"}),
        (Outcome.NEGATIVE, {"everything", "captures", "negatives"}, {"everything", "reports", "negatives"}),
        (Outcome.FAILED, {"everything", "captures"}, {"everything", "reports", "failures"}),
    ],
)
def test_rules_choose_destinations_for_each_kind_of_result(
    outcome: Outcome, scs: set[str], srs: set[str]
) -> None:
    settings = Settings.model_validate({"destinations": [PACS | rules for rules in DESTINATIONS]})
    routes = settings.routes({"ANYONE"}, outcome)
    assert {role: set(names) for role, names in routes.items()} == {"SC": scs, "SR": srs}


def test_rules_choose_among_the_senders_reply_to_destinations() -> None:
    settings = Settings.model_validate(
        {
            "peers": [{"name": "a", "ae_title": "A", "reply_to": ["reports", "positives"]}],
            "destinations": [PACS | rules for rules in DESTINATIONS],
        }
    )
    assert settings.routes({"A"}, Outcome.NEGATIVE) == {"SC": (), "SR": ("reports",)}
    assert settings.routes({"A"}, Outcome.POSITIVE) == {"SC": ("positives",), "SR": ("reports", "positives")}
    # Who holds a report gets the one that replaces it; one that is configured no more is nobody.
    informed = settings.routes({"A"}, Outcome.NEGATIVE, {"positives", "removed"})
    assert informed == {"SC": (), "SR": ("reports", "positives")}


def test_only_results_that_the_rules_select_are_due(make_bench: Callable[..., Bench]) -> None:
    image = phantom.dataset(1, rows=160, columns=128)
    bench = make_bench()
    report_image(bench, image, 0.1)
    assert pending(bench, image) == {
        "everything": ["SC", "SR"],
        "reports": ["SR"],
        "captures": ["SC"],
        "negatives": ["SC", "SR"],
    }
    (reported,) = bench.events("reported")
    assert reported.details["destinations"] == {
        "SC": ["everything", "captures", "negatives"],
        "SR": ["everything", "reports", "negatives"],
    }


def test_a_changed_outcome_amends_every_delivered_report_and_completes_the_captures(
    make_bench: Callable[..., Bench],
) -> None:
    first, late = phantom.two_views(1, rows=160, columns=128)
    bench = make_bench()
    report_image(bench, first, 0.1)
    report_image(bench, late, 0.9)
    due = pending(bench, first)
    assert due["negatives"] == ["SC", "SR", "SR"]
    assert sorted(due["positives"]) == ["SC", "SC", "SR"]
    assert sorted(due["everything"]) == ["SC", "SC", "SR", "SR"]
    assert sorted(due["captures"]) == ["SC", "SC"]
    (amended,) = [
        row for row in results(bench, first) if row["destination"] == "positives" and row["role"] == "SR"
    ]
    assert dcmread(bench.files.path(amended["sha256"])).SeriesDescription.startswith("AMENDED")


def test_a_new_destination_gets_only_later_reports(
    make_bench: Callable[..., Bench],
) -> None:
    image, other = phantom.dataset(1, rows=160, columns=128), phantom.dataset(2, rows=160, columns=128)
    bench = make_bench(destinations=[{"name": "old"}])
    report_image(bench, image, 0.1)
    bench = make_bench(destinations=[{"name": "new"}])
    report_image(bench, other, 0.1)
    assert (set(pending(bench, image)), set(pending(bench, other))) == ({"old"}, {"new"})
    assert [group[:3] for group in views.stuck_groups(bench.database, ["new"])] == [
        ("NO DESTINATION", "old", 2)
    ]


def test_new_objects_have_new_uids_and_the_report_names_the_old_one(make_bench: Callable[..., Bench]) -> None:
    image = phantom.dataset(1, rows=160, columns=128)
    bench = make_bench(destinations=[{"name": "pacs"}])
    report_image(bench, image, 0.1)
    old_sc, old_sr = results(bench, image)
    assert studies.retry_study(bench.database, image.StudyInstanceUID, "root", new=True)
    bench.work()
    rows = results(bench, image)
    assert [(row["role"], row["state"]) for row in rows] == [
        ("SC", "DISCARDED"),
        ("SR", "DISCARDED"),
        ("SC", "PENDING"),
        ("SR", "PENDING"),
    ]
    new_sc, new_sr = rows[2:]
    assert new_sc["sop_instance_uid"] != old_sc["sop_instance_uid"]
    report = dcmread(bench.files.path(new_sr["sha256"]))
    (study,) = report.PredecessorDocumentsSequence
    replaced = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert replaced == old_sr["sop_instance_uid"]
    assert bench.model.images_seen == 1
    # It was asked for once: the same image again makes nothing, a plain retry neither.
    report_image(bench, image, 0.1)
    assert studies.retry_study(bench.database, image.StudyInstanceUID, "root")
    bench.work()
    assert len(results(bench, image)) == 4
