"""Randomised looks: what they keep, where they are used, and that a seed decides them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import phantom
from support.model_packages import write_untrained
from typer.testing import CliRunner

from pacs_node.analyze import package
from pacs_node.analyze.classifier import Classifier
from pacs_node.cli import app
from pacs_node.training import augment, dataset, randomize
from pacs_node.training.recipe import Recipe
from pacs_node.training.scenes import Scene, quartered

EVERY = {**randomize.EFFECTS, "quartered": quartered, "vary": randomize.vary, "unseen": randomize.unseen}
ROWS, COLUMNS = 160, 128


def limb(seed: int) -> Scene:
    """A phantom with a triangle outlined somewhere in it."""
    image = (phantom.radiograph(seed, seed % 2 == 1, rows=ROWS, columns=COLUMNS) / 4095).astype(np.float32)
    corner = np.random.default_rng(seed).uniform((10, 10), (COLUMNS - 34, ROWS - 34))
    return Scene(image, (corner + np.array([[0.0, 0.0], [24.0, 4.0], [8.0, 24.0]]),))


def filled(scene: Scene) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    marks = np.zeros(scene.image.shape, np.uint8)
    for points in scene.outlines:
        cv2.fillPoly(marks, [np.round(points - 0.5).astype(np.int32)], [1])
    return marks > 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of PNG with marks, half of it the train split."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "images").mkdir()
    rows, marks = [], {}
    for seed in range(16):
        pixels = phantom.radiograph(seed, seed % 2 == 1, rows=ROWS, columns=COLUMNS) >> 4
        cv2.imwrite(str(folder / "images" / f"{seed}.png"), pixels.astype(np.uint8))
        rows.append([f"{seed}.png", "train" if seed < 8 else "test", seed % 2, seed // 2])
        if seed % 2:
            marks[f"{seed}.png"] = [{"bbox": [40, 60, 40, 40]}]
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "fractured", "group"], *rows])
    (folder / "regions.json").write_text(json.dumps(marks))
    return folder


@pytest.fixture(scope="module")
def squares(pictures: Path) -> list[augment.Square]:
    return [augment.square(sample, 96, (1.0, 99.0)) for sample in dataset.load(pictures, "train")]


@pytest.mark.parametrize("name", EVERY)
def test_an_effect_gives_an_image_by_its_seed(name: str) -> None:
    looks = []
    for seed in range(20):
        scene = limb(seed)
        before = scene.image.copy()
        varied, again = (EVERY[name](scene, np.random.default_rng(seed)) for _ in range(2))
        assert varied.image.dtype == np.float32
        assert varied.image.ndim == 2
        assert varied.image.flags.c_contiguous
        assert 0 <= varied.image.min() <= varied.image.max() <= 1
        assert len(varied.outlines) in (1, 2)
        for points, same in zip(varied.outlines, again.outlines, strict=True):
            assert points.shape == (3, 2)
            assert np.array_equal(points, same)
            assert (points >= 0).all()
            assert (points <= varied.image.shape[::-1]).all()
        assert np.array_equal(varied.image, again.image)
        assert np.array_equal(scene.image, before), "the source is left as it was"
        looks.append(varied.image.shape != before.shape or bool((varied.image != before).any()))
    assert sum(looks) > 10


@pytest.mark.parametrize("name", ["turned", "quartered", "several", "framed", "unseen"])
def test_outlines_follow_the_geometry(name: str) -> None:
    """A dot at a corner of the outline, seen as the difference that it makes, stays at that corner."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS] + 0.5
    for seed in range(30):
        scene = limb(seed)
        left, top = scene.outlines[0][0]
        dot = 0.3 * np.exp(-((x - left) ** 2 + (y - top) ** 2) / 8)
        plain = Scene(np.full_like(scene.image, 0.4), scene.outlines)
        dotted = Scene((0.4 + dot).astype(np.float32), scene.outlines)
        without, varied = (EVERY[name](each, np.random.default_rng(seed)) for each in (plain, dotted))
        shown = np.abs(varied.image - without.image)
        rows, columns = np.mgrid[0 : shown.shape[0], 0 : shown.shape[1]] + 0.5
        for points in varied.outlines:
            near = np.hypot(columns - points[0, 0], rows - points[0, 1]) < 8
            weight = np.where(near & (shown > shown[near].max() / 2), shown, 0)
            assert weight.max() > 0.01
            centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
            assert np.hypot(*(centre - points[0])) < 1.5, (name, seed)


@pytest.mark.parametrize("name", randomize.EFFECTS)
def test_no_effect_hides_more_than_a_quarter_of_the_marks(name: str) -> None:
    """Marks of two brightnesses must still differ after the effect."""
    for seed in range(80):
        scene = limb(seed)
        looks = []
        for brightness in (0.35, 0.55):
            image = np.where(filled(scene), np.float32(brightness), 0.45 * scene.image)
            looks.append(randomize.EFFECTS[name](Scene(image, scene.outlines), np.random.default_rng(seed)))
        marked = filled(looks[0])
        assert marked.any()
        hidden = np.abs(looks[1].image - looks[0].image)[marked] < 0.01
        assert hidden.mean() <= 0.25, seed


def test_recipes_without_it_give_the_same_views(squares: list[augment.Square]) -> None:
    recipe = Recipe()
    assert recipe.augmentation.randomize == 0
    views, transform = augment.Views(squares, recipe), augment.pipeline(recipe.augmentation)
    for index, square in enumerate(squares):
        image, label, marks = views[3, 40 + index, index]
        expected = augment.view(square, transform, (recipe.optimization.seed, 3, 40 + index))
        assert torch.equal(image, expected.image)
        assert torch.equal(marks, expected.marks)
        assert label == expected.positive


def test_the_recipe_states_the_share_of_randomised_views(squares: list[augment.Square]) -> None:
    still = {"mirror": False, "rotation": 0, "scale": 0, "shift": 0, "gamma": 0}
    given = {"size": 96, "stretch": (1, 99)}
    count, changed = 60, {}
    for share in (0.5, 1.0):
        recipe = Recipe.model_validate({"input": given, "augmentation": {**still, "randomize": share}})
        views = augment.Views(squares, recipe)
        changed[share] = 0
        for draw in range(count):
            index = draw % len(squares)
            image, label, marks = views[0, draw, index]
            assert torch.equal(image, views[0, draw, index][0])
            assert image.shape == (1, 96, 96)
            assert label == squares[index].positive
            assert bool((marks == augment.MARK).any()) == squares[index].positive
            plain = torch.from_numpy(squares[index].input)
            changed[share] += not torch.allclose(image[0], plain, atol=0.01)
    assert 0.3 * count < changed[0.5] < 0.7 * count
    assert changed[1.0] == count


def test_a_square_gives_its_scene_without_its_borders(squares: list[augment.Square]) -> None:
    square = squares[1]
    scene = square.scene
    rows, columns = scene.image.shape
    assert 80 < rows <= 96
    assert 60 < columns <= 77
    left, top = np.round(square.outlines[0][0] - scene.outlines[0][0]).astype(int)
    again = np.zeros((96, 96), np.float32)
    again[top : top + rows, left : left + columns] = scene.image
    assert np.array_equal(again, square.input)
    assert np.allclose(scene.outlines[0] + [left, top], square.outlines[0])


def test_evaluate_measures_shifted_images_by_their_seed(pictures: Path, tmp_path: Path) -> None:
    model = write_untrained(tmp_path / "untrained")
    displays = [dataset.display(sample.path) for sample in dataset.load(pictures, "test")]
    margins = [answer.margin for answer in Classifier(package.load(model), "cpu").predict(displays)]
    slope = float(0.05 / np.std(margins))  # looks move the margins further than images do
    manifest = (model / package.MANIFEST).read_text().replace("slope = 0.01", f"slope = {slope}")
    intercept = f"intercept = {-slope * float(np.median(margins))}"
    (model / package.MANIFEST).write_text(manifest.replace("intercept = 1.5", intercept))

    def measured(seed: int) -> dict[str, dict[str, object]]:
        arguments = ["--model", model, "--data", pictures, "--robustness", 0, "--shift", seed, "--json"]
        answer = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        sets: dict[str, dict[str, object]] = json.loads(answer.stdout)
        return sets

    first, other = measured(7), measured(8)
    assert list(first) == ["test", "test shifted", "test unseen"]
    assert first == measured(7)
    assert first["test"] == other["test"]
    for name in ("test shifted", "test unseen"):
        assert first[name]["images"] == 8
        assert first[name]["localization"]
        assert first[name]["brier"] != first["test"]["brier"]
        assert first[name]["brier"] != other[name]["brier"]


def test_a_look_depends_on_seed_and_name_alone(pictures: Path) -> None:
    sample = dataset.load(pictures, "test")[1]
    scene, marks = randomize.look(sample, "shifted", 3)
    again, _ = randomize.look(sample, "shifted", 3)
    other, _ = randomize.look(sample, "shifted", 4)
    assert np.array_equal(scene.image, again.image)
    assert scene.image.shape != other.image.shape or (scene.image != other.image).any()
    for mark, points in zip(marks, scene.outlines, strict=True):
        left, top, width, height = mark.box
        assert np.allclose([left, top], points.min(axis=0))
        assert np.allclose([left + width, top + height], points.max(axis=0))
        assert np.allclose(mark.polygon, points)


def test_train_draws_the_looks(pictures: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "looks.png"
    answer = CliRunner().invoke(app, ["train", "--data", str(pictures), "--looks", str(sheet)])
    assert answer.exit_code == 0, answer.output
    drawn = cv2.imread(str(sheet))
    assert drawn is not None
    assert drawn.shape[0] > 1000
    yellow = (drawn[..., 0] < 60) & (drawn[..., 1] > 200) & (drawn[..., 2] > 200)
    assert yellow.sum() > 500
    assert list(tmp_path.iterdir()) == [sheet]
