"""Which results go where: rules of destinations and peers, amended reports, and new objects on request."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from support.brightness import Brightness

from pacs_node.config import Settings
from pacs_node.demo import phantom
from pacs_node.files import FileStore
from pacs_node.journal import audit, quarantine, views
from pacs_node.journal.database import Database
from pacs_node.records import Outcome, Prediction
from pacs_node.roles.receive import take_in
from pacs_node.roles.worker import Worker

DESTINATIONS = (
    {"name": "everything"},
    {"name": "reports", "results": ["SR"]},
    {"name": "captures", "results": ["SC"]},
    {"name": "positives", "outcomes": ["POSITIVE"]},
    {"name": "negatives", "outcomes": ["NEGATIVE"]},
    {"name": "failures", "outcomes": ["FAILED"], "results": ["SR"]},
)


@dataclass
class Told(Brightness):
    """Says what it is told to."""

    says: float = 0.1

    def _one(self, image: NDArray[np.float32]) -> Prediction:
        return replace(super()._one(image), probability=self.says)


class NoLeases:
    def hold(self, token: str) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Bench:
    """One node without its network, whose results wait for their destinations."""

    settings: Settings
    database: Database
    files: FileStore
    model: Told

    def read(self, image: FileDataset, says: float) -> None:
        """Receive an image, have the model say this of it, and report the study."""
        path = self.settings.storage.path / "sent.dcm"
        image.save_as(path, enforce_file_format=True)
        self.files.spool([path.read_bytes()], str)
        self.model.says = says
        node = self.database.identity("NODE")
        take_in(self.settings, self.database, self.files, node, {})
        self.work()

    def work(self) -> None:
        node = self.database.identity("NODE")
        worker = Worker(self.settings, self.database, self.files, node, self.model, NoLeases())
        while worker.step():
            pass

    def results(self, image: FileDataset) -> list[dict[str, Any]]:
        found = views.study(self.database, image.StudyInstanceUID)
        assert found
        results: list[dict[str, Any]] = found["results"]
        return results

    def going_to(self, image: FileDataset) -> dict[str, list[str]]:
        """For each destination the roles of what is due there, in the order of making."""
        going: dict[str, list[str]] = {}
        for result in self.results(image):
            if result["destination"] and result["state"] == "PENDING":
                going.setdefault(result["destination"], []).append(result["role"])
        return going


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**settings: object) -> Bench:
        address = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
        defaults = {
            "storage": {"path": tmp_path},
            "study": {"quiet_seconds": 0},
            "destinations": [address | rules for rules in DESTINATIONS],
        }
        chosen = Settings.model_validate(defaults | settings)
        database = Database(chosen.database_url)
        database.migrate()
        made.append(Bench(chosen, database, FileStore(tmp_path), Told()))
        return made[-1]

    yield make
    for node in made:
        assert audit.verify(node.database)[1] is None
        node.database.close()


@pytest.mark.parametrize(
    ("outcome", "scs", "srs"),
    [
        (Outcome.POSITIVE, {"everything", "captures", "positives"}, {"everything", "reports", "positives"}),
        (Outcome.NEGATIVE, {"everything", "captures", "negatives"}, {"everything", "reports", "negatives"}),
        (Outcome.FAILED, {"everything", "captures"}, {"everything", "reports", "failures"}),
    ],
)
def test_rules_choose_for_each_kind_of_result(outcome: Outcome, scs: set[str], srs: set[str]) -> None:
    address = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    settings = Settings.model_validate({"destinations": [address | rules for rules in DESTINATIONS]})
    routes = settings.routes({"ANYONE"}, outcome)
    assert {role: set(names) for role, names in routes.items()} == {"SC": scs, "SR": srs}


def test_rules_choose_among_those_that_the_senders_are_answered_at() -> None:
    address = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    settings = Settings.model_validate(
        {
            "peers": [{"name": "a", "ae_title": "A", "reply_to": ["reports", "positives"]}],
            "destinations": [address | rules for rules in DESTINATIONS],
        }
    )
    assert settings.routes({"A"}, Outcome.NEGATIVE) == {"SC": (), "SR": ("reports",)}
    assert settings.routes({"A"}, Outcome.POSITIVE) == {"SC": ("positives",), "SR": ("reports", "positives")}
    # Who holds a report gets the one that replaces it; one that is configured no more is nobody.
    informed = settings.routes({"A"}, Outcome.NEGATIVE, {"positives", "removed"})
    assert informed == {"SC": (), "SR": ("reports", "positives")}


def test_only_what_is_wanted_is_to_be_delivered(bench: Callable[..., Bench]) -> None:
    image = phantom.dataset(1, rows=160, columns=128)
    node = bench()
    node.read(image, says=0.1)
    assert node.going_to(image) == {
        "everything": ["SC", "SR"],
        "reports": ["SR"],
        "captures": ["SC"],
        "negatives": ["SC", "SR"],
    }
    (reported,) = [one for one in audit.events(node.database) if one.event == "reported"]
    assert reported.details["destinations"] == {
        "SC": ["everything", "captures", "negatives"],
        "SR": ["everything", "reports", "negatives"],
    }


def test_another_outcome_replaces_the_report_wherever_it_stands_and_completes_the_captures(
    bench: Callable[..., Bench],
) -> None:
    first, late = phantom.two_views(1, rows=160, columns=128)
    node = bench()
    node.read(first, says=0.1)
    node.read(late, says=0.9)
    going = node.going_to(first)
    assert going["negatives"] == ["SC", "SR", "SR"]
    assert sorted(going["positives"]) == ["SC", "SC", "SR"]
    assert sorted(going["everything"]) == ["SC", "SC", "SR", "SR"]
    assert sorted(going["captures"]) == ["SC", "SC"]
    (amended,) = [
        one for one in node.results(first) if one["destination"] == "positives" and one["role"] == "SR"
    ]
    assert dcmread(node.files.path(amended["sha256"])).SeriesDescription.startswith("AMENDED")


def test_a_destination_added_later_gets_only_what_is_reported_from_then_on(
    bench: Callable[..., Bench],
) -> None:
    image, other = phantom.dataset(1, rows=160, columns=128), phantom.dataset(2, rows=160, columns=128)
    node = bench(destinations=[{"name": "old", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}])
    node.read(image, says=0.1)
    node = bench(destinations=[{"name": "new", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}])
    node.read(other, says=0.1)
    assert (set(node.going_to(image)), set(node.going_to(other))) == ({"old"}, {"new"})
    assert quarantine.counts(node.database, ["new"]) == {"NO DESTINATION": 2}


def test_new_objects_have_new_uids_and_the_report_names_the_old_one(bench: Callable[..., Bench]) -> None:
    image = phantom.dataset(1, rows=160, columns=128)
    node = bench(destinations=[{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}])
    node.read(image, says=0.1)
    old_sc, old_sr = node.results(image)
    assert quarantine.retry_study(node.database, image.StudyInstanceUID, "root", new=True)
    node.work()
    results = node.results(image)
    assert [(one["role"], one["state"]) for one in results] == [
        ("SC", "DISCARDED"),
        ("SR", "DISCARDED"),
        ("SC", "PENDING"),
        ("SR", "PENDING"),
    ]
    new_sc, new_sr = results[2:]
    assert new_sc["sop_instance_uid"] != old_sc["sop_instance_uid"]
    report = dcmread(node.files.path(new_sr["sha256"]))
    (study,) = report.PredecessorDocumentsSequence
    replaced = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert replaced == old_sr["sop_instance_uid"]
    assert node.model.images_seen == 1
    # It was asked for once: the same image again makes nothing, a plain retry neither.
    node.read(image, says=0.1)
    assert quarantine.retry_study(node.database, image.StudyInstanceUID, "root")
    node.work()
    assert len(node.results(image)) == 4
