"""What becomes of studies with images that the model does not know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from support.brightness import Brightness

from pacs_node.config import Settings
from pacs_node.demo import phantom
from pacs_node.files import FileStore
from pacs_node.journal import audit, views
from pacs_node.journal.database import Database
from pacs_node.records import ModelIdentity, Prediction
from pacs_node.report.text import as_text
from pacs_node.roles.receive import take_in
from pacs_node.roles.worker import Worker


class NoLeases:
    """Tests are over before a lease is."""

    def hold(self, token: str) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Picky(Brightness):
    """Knows wrists, and no image whose mean brightness is above `limit`."""

    limit: float = 0.8
    scope_limit: float = 1.0

    @property
    def identity(self) -> ModelIdentity:
        return replace(super().identity, body_parts=("WRIST",), scope_limit=self.scope_limit)

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        found = super().predict(images)
        return [
            replace(one, scope=round(float(image.mean()) / self.limit, 4))
            for one, image in zip(found, images, strict=True)
        ]


@dataclass
class Bench:
    """One node without its network."""

    settings: Settings
    database: Database
    files: FileStore
    now: float = 1_800_000_000.0

    def work(self, model: Picky, *images: FileDataset) -> None:
        identity = self.database.identity("NODE")
        for image in images:
            path = self.settings.storage.path / "sent.dcm"
            image.save_as(path, enforce_file_format=True)
            self.files.spool([path.read_bytes()], str)
        take_in(self.settings, self.database, self.files, identity, {})
        worker = Worker(self.settings, self.database, self.files, identity, model, NoLeases())
        for _ in range(5):
            while worker.step():
                pass
            self.now += 180

    def study(self, image: Dataset) -> dict[str, Any]:
        found = views.study(self.database, image.StudyInstanceUID)
        assert found is not None
        return found

    def report(self, image: Dataset) -> Dataset:
        (sha,) = {result["sha256"] for result in self.study(image)["results"] if result["role"] == "SR"}
        return dcmread(self.files.path(sha))

    def event(self, image: Dataset, name: str) -> dict[str, Any]:
        events = audit.events(self.database, image.StudyInstanceUID)
        return next(event.details for event in events if event.event == name)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    settings = Settings.model_validate({"storage": {"path": tmp_path}})
    made: list[Bench] = []
    database = Database(settings.database_url, lambda: made[0].now)
    made.append(Bench(settings, database, FileStore(tmp_path)))
    database.migrate()
    yield made[0]
    database.close()


def white(image: FileDataset) -> FileDataset:
    """The same object with an image that is all but white."""
    pixels = np.full((image.Rows, image.Columns), 4095, np.uint16)
    pixels[0] = 0
    image.PixelData = pixels.tobytes()
    del image.WindowCenter, image.WindowWidth
    return image


def test_a_study_with_one_image_out_of_scope_is_partial(bench: Bench) -> None:
    known, strange = phantom.two_views(1, rows=160, columns=128)
    bench.work(Picky(), known, white(strange))
    report = bench.report(known)
    assert report.CompletionFlag == "PARTIAL"
    assert "1 of 2 images NOT ANALYZED" in report.SeriesDescription
    assert "outside the model's scope: the image is unlike those that it knows" in as_text(report)
    failed = bench.event(known, "analysis_failed")
    assert failed["scope"] > 1
    assert "probability" not in json.dumps(failed)
    assert 0 < bench.event(known, "analyzed")["scope"] < 1
    captures = [result for result in bench.study(known)["results"] if result["role"] == "SC"]
    assert len(captures) == 1


def test_a_study_wholly_out_of_scope_gets_the_failure_report(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.work(Picky(), strange)
    report = bench.report(strange)
    assert report.SeriesDescription == "AI: NOT ANALYZED"
    assert "outside the model's scope" in as_text(report)
    assert "%" not in as_text(report)


def test_a_study_of_another_body_part_is_skipped(bench: Bench) -> None:
    chest = phantom.dataset(1, rows=160, columns=128)
    chest.BodyPartExamined = "CHEST"
    bench.work(Picky(), chest)
    study = bench.study(chest)
    assert study["state"] == "SKIPPED"
    assert "1 x outside the model's scope: body part CHEST" in study["reason"]
    assert not study["results"]
    assert bench.event(chest, "analysis_skipped")["reason"] == "outside the model's scope: body part CHEST"


def test_with_the_check_off_the_report_says_so(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.work(Picky(scope_limit=0), strange)
    report = bench.report(strange)
    assert "NOT ANALYZED" not in report.SeriesDescription
    assert "Whether the model knows images of this kind was not checked." in as_text(report)
    assert "scope_limit=0" in report.to_json()


def test_a_looser_limit_is_told_among_the_parameters(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.work(Picky(scope_limit=3), strange)
    report = bench.report(strange)
    assert "NOT ANALYZED" not in report.SeriesDescription
    assert "was not checked" not in as_text(report)
    assert "scope_limit=3" in report.to_json()
