"""Studies with images outside the model's scope."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from support.bench import Bench
from support.brightness import Brightness

from pacs_node.demo import phantom
from pacs_node.records import ModelIdentity, Prediction
from pacs_node.report.text import as_text


@dataclass
class Picky(Brightness):
    """A model of wrists, to which images whose mean brightness exceeds `limit` are unknown."""

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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, Picky())
    yield bench
    bench.close()


def white(image: FileDataset) -> FileDataset:
    """The same object with an almost white image."""
    pixels = np.full((image.Rows, image.Columns), 4095, np.uint16)
    pixels[0] = 0
    image.PixelData = pixels.tobytes()
    del image.WindowCenter, image.WindowWidth
    return image


def test_a_study_with_one_image_out_of_scope_is_partial(bench: Bench) -> None:
    known, strange = phantom.two_views(1, rows=160, columns=128)
    bench.receive(known, white(strange))
    bench.work()
    (report,) = bench.results(known, "SR")
    assert report.CompletionFlag == "PARTIAL"
    assert "1 of 2 images NOT ANALYZED" in report.SeriesDescription
    assert "outside the model's scope: the image is unlike those that it knows" in as_text(report)
    failed = bench.events("analysis_failed", known)[0].details
    assert failed["scope"] > 1
    assert "probability" not in json.dumps(failed)
    assert 0 < bench.events("analyzed", known)[0].details["scope"] < 1
    assert len(bench.results(known, "SC")) == 1


def test_a_study_wholly_out_of_scope_gets_the_failure_report(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.receive(strange)
    bench.work()
    (report,) = bench.results(strange, "SR")
    assert report.SeriesDescription == "AI: NOT ANALYZED"
    assert "outside the model's scope" in as_text(report)
    assert "%" not in as_text(report)


def test_a_study_of_another_body_part_is_skipped(bench: Bench) -> None:
    chest = phantom.dataset(1, rows=160, columns=128)
    chest.BodyPartExamined = "CHEST"
    bench.receive(chest)
    bench.work()
    study = bench.study(chest)
    assert study["state"] == "SKIPPED"
    assert "1 x outside the model's scope: body part CHEST" in study["reason"]
    assert not study["results"]
    assert (
        bench.events("analysis_skipped", chest)[0].details["reason"]
        == "outside the model's scope: body part CHEST"
    )


def test_with_the_check_off_the_report_says_so(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.model = Picky(scope_limit=0)
    bench.receive(strange)
    bench.work()
    (report,) = bench.results(strange, "SR")
    assert "NOT ANALYZED" not in report.SeriesDescription
    assert "Whether the model knows images of this kind was not checked." in as_text(report)
    assert "scope_limit=0" in report.to_json()


def test_a_looser_limit_is_among_the_reported_parameters(bench: Bench) -> None:
    strange = white(phantom.dataset(1, rows=160, columns=128))
    bench.model = Picky(scope_limit=3)
    bench.receive(strange)
    bench.work()
    (report,) = bench.results(strange, "SR")
    assert "NOT ANALYZED" not in report.SeriesDescription
    assert "was not checked" not in as_text(report)
    assert "scope_limit=3" in report.to_json()
