"""Secondary Captures: the geometry of the source, the heat in its place, and nothing that was not stated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import support.report_studies as studies
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pacs_node import config
from pacs_node.errors import InputError
from pacs_node.heatmap import HeatMap
from pacs_node.report import sc
from pacs_node.report.facts import ReportFacts

SETTINGS = config.ReportSettings()


def picture(
    source: Dataset, probability: float, display: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    image = studies.image(source, probability)
    shown = studies.display(source) if display is None else display
    return sc.render(image, shown, studies.MODEL, SETTINGS)


def black(source: Dataset) -> NDArray[np.float32]:
    return np.zeros((source.Rows, source.Columns), np.float32)


@pytest.mark.parametrize(
    ("rows", "columns", "attributes", "cap", "size"),
    [
        (600, 400, {}, 2048, (600, 400)),
        (3000, 2400, {}, 2048, (2048, 1638)),
        (3000, 2400, {}, 0, (3000, 2400)),
        (2400, 3000, {}, 1024, (819, 1024)),
        (100, 80, {}, 2048, (512, 410)),
        (100, 80, {}, 256, (256, 205)),
        (600, 400, {"PixelAspectRatio": [2, 1]}, 2048, (1200, 400)),
        (600, 400, {"PixelAspectRatio": [1, 2]}, 2048, (600, 800)),
        (600, 400, {"ImagerPixelSpacing": [0.2, 0.1]}, 2048, (1200, 400)),
        (600, 400, {"PixelAspectRatio": [2, 1]}, 600, (600, 200)),
    ],
)
def test_the_aspect_is_the_source_s(
    rows: int, columns: int, attributes: dict[str, Any], cap: int, size: tuple[int, int]
) -> None:
    assert sc.size(studies.header(Rows=rows, Columns=columns, **attributes), cap) == size


def test_the_heat_lies_where_the_map_says_and_the_anatomy_shows_through() -> None:
    source = studies.header(Rows=700, Columns=700)
    image = studies.image(source, 0.9)
    assert image.finding is not None
    values = np.zeros((7, 7), np.float32)
    values[2, 4] = 1  # centre at column 450, row 250
    heat = HeatMap(values, (50.0, 50.0), (100.0, 100.0))
    image = replace(image, finding=replace(image.finding, heat_map=heat, regions=()))
    pictures = [
        sc.render(image, np.full((700, 700), level, np.float32), studies.MODEL, SETTINGS).astype(int)
        for level in (0.2, 0.8)
    ]
    for shown in pictures:
        colourful = shown.max(axis=2) - shown.min(axis=2)
        colourful[:, 660:] = 0  # the colour bar
        row, column = np.unravel_index(colourful[100:600].argmax(), colourful[100:600].shape)
        assert abs(row + 100 - 250) < 60
        assert abs(column - 450) < 60
        assert colourful[450, 250] == 0
    assert (pictures[1] - pictures[0])[250, 450].mean() > 40


def test_a_quiet_image_does_not_glow_like_one_with_a_fracture() -> None:
    source = studies.header()

    def glow(probability: float) -> int:
        image = studies.image(source, 0.4)
        assert image.finding
        heat_map = replace(image.finding.heat_map, values=np.ones((7, 7), np.float32))
        finding = replace(image.finding, heat_map=heat_map, probability=probability)
        shown = sc.render(replace(image, finding=finding), black(source), studies.MODEL, SETTINGS)
        return int(shown[300, 200].max())

    assert glow(0.01) < 40 < 2 * glow(0.2) < glow(0.5) * 1.5
    assert glow(0.5) == glow(0.9)


def test_a_region_is_outlined_in_place() -> None:
    source = studies.header(Rows=700, Columns=700)
    left, top = 200, 300  # the corner of the region that `studies.finding` makes
    positive = picture(source, 0.9, black(source)).astype(int)
    assert positive[top - 1 : top + 1, left + 50].min() > 150
    assert positive[top + 50, left - 1 : left + 1].min() > 150
    assert positive[top + 10, left + 50].min() < 150
    negative = picture(source, 0.1, black(source)).astype(int)
    assert negative[top - 1 : top + 1, left + 50].max() < 100


def test_probability_and_outcome_are_burned_in() -> None:
    source = studies.header(Rows=1000, Columns=800)
    first, second = picture(source, 0.1, black(source)), picture(source, 0.2, black(source))
    corner = (slice(0, 80), slice(0, 400))
    assert first[corner].max() == 255
    assert (first[corner] != second[corner]).any()
    image = studies.image(source, 0.1)
    other = sc.render(image, black(source), studies.MODEL, config.ReportSettings(label="Another label"))
    bottom = (slice(920, 1000), slice(0, 400))
    assert (first[bottom] != other[bottom]).any()


def test_a_label_may_have_letters_beyond_ascii() -> None:
    source = studies.header(Rows=1000, Columns=800)
    image, dark = studies.image(source, 0.1), black(source)
    labels = ["für", "f\uffffr", "fßr", "fжr"]
    made = [sc.render(image, dark, studies.MODEL, config.ReportSettings(label=label)) for label in labels]
    assert len({picture.tobytes() for picture in made}) == len(labels)


def test_a_side_marker_under_the_text_can_still_be_seen() -> None:
    source = studies.header(Rows=1000, Columns=800)
    marked = black(source)
    marked[0:60, 0:200] = 1
    corner = picture(source, 0.1, marked)[0:60, 0:200]
    assert (corner.max(axis=2) > 60).all()


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (2000, 150), (150, 2000), (4000, 60), (700, 701)])
def test_any_shape_can_be_written_on(rows: int, columns: int) -> None:
    source = studies.header(Rows=rows, Columns=columns)
    made = picture(source, 0.9)
    assert made.shape == (*sc.size(source, SETTINGS.max_size), 3)
    assert made.dtype == np.uint8


def test_what_the_source_does_not_state_is_not_stated() -> None:
    source = studies.header(ImageLaterality=None, BodyPartExamined=None, PatientOrientation=None)
    image = studies.image(source, 0.9)
    facts = ReportFacts.of(studies.request(image), SETTINGS)
    capture = sc.build(facts, facts.images[0], studies.display(source))
    for keyword in ("ImageLaterality", "BodyPartExamined", "BurnedInAnnotation", "PixelSpacing"):
        assert keyword not in capture
    assert not capture.PatientOrientation


def test_what_the_source_states_is_kept() -> None:
    source = studies.header(BurnedInAnnotation="NO", InstanceNumber=7, LossyImageCompression="01")
    image = studies.image(source, 0.9)
    facts = ReportFacts.of(studies.request(image), SETTINGS)
    capture = sc.build(facts, facts.images[0], studies.display(source))
    assert capture.BurnedInAnnotation == "NO"
    assert capture.InstanceNumber == 7
    assert capture.LossyImageCompression == "01"
    assert capture.ImageLaterality == "L"
    assert capture.PatientOrientation == ["L", "F"]
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert capture.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


def test_a_picture_of_another_size_is_refused() -> None:
    source = studies.header()
    with pytest.raises(InputError, match="Rows and Columns say"):
        picture(source, 0.9, np.zeros((10, 10), np.float32))


def test_an_image_that_was_not_analyzed_has_no_capture() -> None:
    source = studies.header()
    image = studies.image(source, None)
    with pytest.raises(InputError, match="was not analyzed"):
        sc.render(image, studies.display(source), studies.MODEL, SETTINGS)
