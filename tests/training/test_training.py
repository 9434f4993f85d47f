"""From a small data set to a package: every step of `train`, on shapes that a network learns in a minute."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from rich.live import Live
from safetensors.torch import load_file, save_file
from torchvision import models, tv_tensors
from typer.testing import CliRunner

from pacs_node.analyze import package
from pacs_node.analyze.architectures import ARCHITECTURES, ActivationMap
from pacs_node.cli import app
from pacs_node.errors import ConfigError, InputError, ModelError
from pacs_node.training import augment, dataset, publish, recipe
from pacs_node.training import train as training
from pacs_node.training.recipe import Augmentation, Recipe

RECIPE = """
name = "Bars"
version = "1"
labels = ["whole", "fractured"]

[finding]
value = "1"
scheme = "99TEST"
meaning = "Gap"
positive = "Gap suspected"
negative = "no gap suspected"
caveat = "Only bars were looked at."

[provenance]
data = "bars"
data_license = "none"
citation = "Made here."
pretrained = "random"
limits = ["only bars"]

[input]
size = 96
stretch = [1.0, 99.0]

[optimization]
epochs = 4
batch = 8
learning_rate = 1e-3
balance = "oversample"
localization = 1.0
average = 0.5
threads = 1

[augmentation]
crop = 72
"""


@pytest.fixture(scope="module")
def rgb_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of torchvision's RGB network, with biases that matter."""
    torch.manual_seed(7)
    network = models.squeezenet1_0(weights=None)
    with torch.no_grad():
        network.features[0].bias.normal_()
    path = tmp_path_factory.mktemp("pretrained") / "rgb.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set: a bright bar, broken by a gap in half of the images."""
    folder = tmp_path_factory.mktemp("bars")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    rows, regions = [], {}
    for index in range(64):
        split = ("train", "train", "val", "test")[index % 4]
        fractured = index // 4 % 2
        image = rng.integers(0, 40, (120, 100)).astype(np.uint8)
        x, lean = (int(value) for value in rng.integers(30, 70, 2))
        cv2.line(image, (x, 5), (lean, 115), 220, 21)
        cv2.circle(image, tuple(int(value) for value in rng.integers(10, 90, 2)), 8, 120, -1)
        if fractured:
            cv2.rectangle(image, (10, 50), (90, 62), 20, -1)
            regions[f"{index}.png"] = [{"bbox": [30, 48, 40, 16]}]
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
        rows.append([f"{index}.png", split, fractured, index // 8 * 4 + index % 4])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "fractured", "group"], *rows])
    (folder / "regions.json").write_text(json.dumps(regions))
    return folder


def rows(log: Path) -> list[dict[str, str]]:
    with log.open(newline="") as file:
        return list(csv.DictReader(file))


def small(**changed: object) -> Recipe:
    optimization = {"epochs": 2, "batch": 8, "threads": 1, **changed}
    return Recipe.model_validate({"input": {"size": 96, "stretch": (1, 99)}, "optimization": optimization})


def test_folding_the_input_is_exact(rgb_weights: Path) -> None:
    network = ARCHITECTURES["squeezenet1_0"].build().eval()
    training.initialize(network, rgb_weights)
    rgb = models.squeezenet1_0(weights=None).eval()
    rgb.load_state_dict(load_file(rgb_weights))
    gray = torch.rand(2, 1, 128, 128)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (training.IMAGENET_MEAN, training.IMAGENET_STD))
    with torch.inference_mode():
        expected = rgb.features((gray.expand(-1, 3, -1, -1) - mean) / std)
        found = network.get_submodule("features")(gray)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_pyramid_starts_from_the_trunk_of_rgb_weights(rgb_weights: Path) -> None:
    network, alone = ActivationMap(), ARCHITECTURES["squeezenet1_0"].build()
    training.initialize(network, rgb_weights)
    training.initialize(alone, rgb_weights)
    torch.testing.assert_close(network.features.state_dict(), alone.get_submodule("features").state_dict())


def test_the_weights_of_a_package_are_taken_over_whole(tmp_path: Path) -> None:
    trained, network = (ARCHITECTURES["squeezenet1_0"].build() for _ in range(2))
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    training.initialize(network, tmp_path / "weights.safetensors")
    torch.testing.assert_close(network.state_dict(), trained.state_dict())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(
        {"features.0.weight": torch.zeros(96, 3, 7, 7), "features.0.bias": torch.zeros(96)}, tmp_path / "w"
    )
    with pytest.raises(ModelError, match="not weights of this architecture"):
        training.initialize(ARCHITECTURES["squeezenet1_0"].build(), tmp_path / "w")


def test_the_answer_is_the_pooled_evidence() -> None:
    network = ActivationMap().eval()
    with torch.inference_mode():
        images = torch.rand(2, 1, 160, 160)
        evidence, logits = network.evidence(images), network(images)
    assert (logits[:, 0] == 0).all()
    highest = evidence.amax(dim=(1, 2))
    assert (logits[:, 1] >= highest).all()
    assert (logits[:, 1] <= highest + np.log(evidence[0].numel()) / network.SHARPNESS + 1e-5).all()


def marked_square() -> augment.Square:
    """A white box on black, with its outline as the mark."""
    image = np.zeros((96, 96), np.uint8)
    image[40:56, 30:40] = 255
    outline = np.array([(30, 40), (40, 40), (40, 56), (30, 56)], np.float32)
    return augment.Square(image, (outline,), positive=True)


def views_of(source: augment.Square, options: Augmentation, count: int) -> list[augment.View]:
    transform = augment.pipeline(options)
    return [augment.view(source, transform, (seed,)) for seed in range(count)]


def test_a_view_keeps_the_range_and_its_marks_stay_on_the_object() -> None:
    views = views_of(marked_square(), Augmentation(crop=64, rotation=180, scale=0.3, gamma=0), 40)
    assert all(view.image.dtype == torch.float32 and view.image.shape == (1, 64, 64) for view in views)
    assert all(view.image.min() >= 0 and view.image.max() <= 1 for view in views)
    positive = [view for view in views if view.positive]
    assert len(positive) > 20
    for view in positive:
        inside, outside = view.marks == augment.MARK, view.marks == 0
        assert view.image[0][inside].mean() > 0.75  # the outline's own pixels are half dark
        assert view.image[0][outside].max() < 0.5


def test_the_seed_decides_the_view_and_leaves_the_networks_randomness_alone() -> None:
    options = Augmentation(crop=64, contrast=0.1, blur=1.5, noise=0.1, collimation=0.5)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (views_of(marked_square(), options, 8) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one.image, other.image) for one, other in zip(first, again, strict=True))
    assert len({view.image.numpy().tobytes() for view in first}) == 8


def test_draws_cover_the_stated_ranges() -> None:
    square = tv_tensors.Image(torch.zeros(1, 96, 96, dtype=torch.uint8))
    nowhere = tv_tensors.KeyPoints(torch.zeros(0, 2), canvas_size=(96, 96))
    frame = augment.Frame(Augmentation(rotation=20, scale=0.15, shift=0.06))
    exposure = augment.Exposure(Augmentation(gamma=0.3, contrast=0.1))
    torch.manual_seed(0)
    frames = [frame.make_params([square, nowhere]) for _ in range(300)]
    exposures = [exposure.make_params([square]) for _ in range(300)]
    for values, largest in (
        ([drawn["angle"] for drawn in frames], 20),
        ([np.log(drawn["scale"]) for drawn in frames], 0.15),
        ([np.log(drawn["exponent"]) for drawn in exposures], 0.3),
        ([drawn["black"] for drawn in exposures], 0.1),
        ([drawn["white"] for drawn in exposures], 0.1),
    ):
        assert (np.min(values), np.max(values)) == pytest.approx((-largest, largest), rel=0.05)
        assert np.std(values) == pytest.approx(largest / np.sqrt(3), rel=0.1)  # uniform
    shifts = np.array([drawn["translate"] for drawn in frames]) / 96
    assert 0.055 < np.abs(shifts).max() < 0.06 * np.sqrt(2) * np.exp(0.15)


def test_a_view_without_the_mark_is_negative() -> None:
    views = views_of(marked_square(), Augmentation(crop=24, rotation=0, scale=0, mirror=False, gamma=0), 60)
    without = [view for view in views if not view.positive]
    assert without
    assert all(view.marks[12, 12] != augment.MARK for view in without)


def test_a_collimated_border_hides_no_mark() -> None:
    options = Augmentation(rotation=0, scale=0, shift=0.4, gamma=0, collimation=1)
    views = views_of(marked_square(), options, 40)
    assert all(view.image[0][view.marks == augment.MARK].mean() > 0.75 for view in views if view.positive)
    bright = augment.Square(np.full((96, 96), 255, np.uint8), (), positive=False)
    still = options.model_copy(update={"shift": 0.0, "mirror": False})
    bordered = [view.image[0] for view in views_of(bright, still, 10)]
    assert all((image[[0, -1]] == 0).any() or (image[:, [0, -1]] == 0).any() for image in bordered)


def test_mirrors_only() -> None:
    source = marked_square()
    views = views_of(source, Augmentation(rotation=0, scale=0, shift=0, gamma=0), 40)
    image = source.image.astype(np.float32) / np.float32(255)
    mirrored = {np.ascontiguousarray(image[::y, ::x]).tobytes() for y in (1, -1) for x in (1, -1)}
    assert {view.image[0].numpy().tobytes() for view in views} == mirrored


def test_localization_is_least_where_the_evidence_lies_on_the_mark() -> None:
    marks = torch.zeros(1, 96, 96)
    marks[0, 37:53, 53:69] = augment.MARK  # the cells (4..5, 6..7) of the grid
    cells = len(range(int(ActivationMap.ORIGIN), 96 - 9, ActivationMap.STRIDE))
    right, wrong = (torch.full((1, cells, cells), -5.0) for _ in range(2))
    right[0, 4:6, 6:8] = 5
    wrong[0, 6:8, 4:6] = 5
    assert training.localization_loss(right, marks) < 0.05
    assert training.localization_loss(wrong, marks) > 3
    assert training.localization_loss(-5 + torch.zeros(1, cells, cells), torch.zeros(1, 96, 96)) < 0.05


@pytest.mark.parametrize(
    ("balance", "expected"), [("none", (6, 2)), ("undersample", (2, 2)), ("oversample", (6, 6))]
)
def test_balance_decides_how_often_a_class_is_shown(balance: str, expected: tuple[int, int]) -> None:
    squares = [augment.Square(np.zeros((8, 8), np.uint8), (), positive=index < 2) for index in range(8)]
    views = augment.Views(squares, small(balance=balance))
    shown = [index for _, _, index in views.order(1)]
    assert (sum(index >= 2 for index in shown), sum(index < 2 for index in shown)) == expected
    assert views.order(1) == views.order(1) != views.order(2)
    assert views.class_weights.tolist() == [1, 1]
    assert augment.Views(squares, small(balance="weights")).class_weights.tolist() == pytest.approx(
        [2 / 3, 2]
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "sgd", "schedule": "step", "l1": 1e-6, "loss": "focal"},
        {"optimizer": "adam", "schedule": "cosine", "mixup": 0.2, "balance": "undersample"},
        {"schedule": "constant", "patience": 1, "learning_rate": 1e-9, "average": 0.0, "epochs": 5},
    ],
    ids=["sgd", "adam", "patience"],
)
def test_options_of_the_paper(changed: dict[str, object], bars: Path, tmp_path: Path) -> None:
    chosen = small(**changed).model_copy(update={"network": recipe.Network(architecture="squeezenet1_0")})
    training.train(dataset.load(bars), chosen, tmp_path, Console(quiet=True))
    log = rows(tmp_path / "log.csv")
    assert len(log) == (chosen.optimization.epochs if "patience" not in changed else len(log))
    if "patience" in changed:
        assert len(log) < 5
    assert all(np.isfinite(float(row["loss"])) for row in log)


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(bars: Path, tmp_path: Path) -> None:
    samples, console = dataset.load(bars), Console(quiet=True)
    chosen = small(localization=1.0, balance="oversample")
    whole = training.train(samples, chosen, tmp_path / "whole", console)
    with pytest.raises(KeyboardInterrupt):
        training.train(samples, chosen, tmp_path / "cut", _Interrupting())
    assert len((tmp_path / "cut" / "log.csv").read_text().splitlines()) == 2
    resumed = training.train(samples, chosen, tmp_path / "cut", console)
    final = [
        torch.load(path.parent / training.CHECKPOINT, weights_only=True)["averaged"]
        for path in (whole, resumed)
    ]
    for name, value in final[0].items():
        assert torch.equal(value, final[1][name]), name
    whole_log, resumed_log = (
        [{**row, "seconds": ""} for row in rows(tmp_path / run / "log.csv")] for run in ("whole", "cut")
    )
    assert whole_log == resumed_log
    with pytest.raises(ConfigError, match="another recipe"):
        training.train(samples, small(seed=2), tmp_path / "cut", console)


class _Interrupting(Console):
    """Stops the run where it tells of the second epoch's start."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.epochs = 0

    def print(self, *told: object, **how: object) -> None:
        if told and str(told[0]).startswith("epoch 1:"):
            self.epochs = 1

    def set_live(self, live: Live) -> bool:
        if self.epochs:
            raise KeyboardInterrupt
        return super().set_live(live)


def test_evidence_is_needed_for_localization(bars: Path, tmp_path: Path) -> None:
    chosen = small(localization=1.0).model_copy(
        update={"network": recipe.Network(architecture="squeezenet1_0")}
    )
    with pytest.raises(ConfigError, match="no map of evidence"):
        training.train(dataset.load(bars), chosen, tmp_path, Console(quiet=True))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[optimization]\nepoch = 3", "optimization.epoch: "),
        ("[network]\narchitecture = 'vgg'", "architecture is one of"),
        ("name = ", "not valid TOML"),
        ("[optimization]\nbalance = 'yes'", "optimization.balance"),
        ("[optimization]\nmixup = 0.2\nlocalization = 1.0", "exclude each other"),
        ("[input]\nsize = 96\nstretch = [0, 100]\nmean = [0.5]\nstd = [0.2]", "are for ONNX"),
    ],
)
def test_a_bad_recipe_names_the_key(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        recipe.load(tmp_path / "recipe.toml")


@pytest.mark.slow
def test_from_data_to_a_package(bars: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    arguments = ["train", "--data", str(bars), "--recipe", str(tmp_path / "recipe.toml")]
    out = tmp_path / "models" / "bars-1"
    arguments += ["--out", str(out), "--runs", str(tmp_path / "runs"), "--allow-leaks"]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    loaded = package.load(out)
    assert loaded.identity.id == "bars-1"
    assert loaded.manifest.name == "Bars"
    assert loaded.identity.positive_phrase == "Gap suspected"
    assert loaded.manifest.labels == ("whole", "fractured")
    assert (out / "recipe.toml").read_text() == RECIPE
    measured = json.loads((out / "metrics.json").read_text())
    assert set(measured) == {"val", "test"}
    assert "only bars" in (out / "CARD.md").read_text(encoding="utf-8")
    log = (tmp_path / "runs" / "bars-1" / "log.csv").read_text().splitlines()
    assert len(log) == 1 + 4
    assert list((tmp_path / "runs" / "bars-1").glob("events.out.tfevents*"))
    assert "leak" in answer.output

    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "continuing after epoch 4" in again.output
    assert package.load(out).identity == loaded.identity

    shutil.copytree(tmp_path / "runs" / "bars-1", tmp_path / "runs" / "bars-2")
    both = [argument.replace("bars-1", "bars-2") for argument in arguments]
    joined = CliRunner().invoke(
        app, [*both, "--publish-only", "--ensemble", "bars-1"], catch_exceptions=False
    )
    assert joined.exit_code == 0, joined.output
    ensemble = package.load(out.parent / "bars-2").manifest
    assert [member.weights for member in ensemble.networks] == ["weights.safetensors", "bars-1.safetensors"]
    assert ensemble.calibration == loaded.manifest.calibration  # of the mean of two equal networks


def test_a_leaking_split_is_refused(bars: Path, tmp_path: Path) -> None:
    for name in ("0.png", "2.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes((bars / "images" / "4.png").read_bytes())
    rows = ["image,split,fractured,group", "0.png,train,1,0", "2.png,test,1,2"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    arguments = ["train", "--data", str(tmp_path)]
    answer = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert isinstance(answer.exception, InputError)
    assert "--allow-leaks" in str(answer.exception)
    checked = CliRunner().invoke(app, [*arguments, "--check"])
    assert checked.exit_code == 1
    assert "leaks: 1" in checked.output
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "--out is needed" in refused.output
    assert not (tmp_path / "out").exists()


def test_calibration_is_towards_the_observed_frequency() -> None:
    rng = np.random.default_rng(3)
    margin = rng.normal(0, 2, 4000)
    labels = rng.random(4000) < 1 / (1 + np.exp(-(0.8 * margin - 1.5)))
    found = publish.calibrate(margin, labels)
    assert found.slope == pytest.approx(0.8, abs=0.08)
    assert found.intercept == pytest.approx(-1.5, abs=0.15)


def test_the_operating_point_has_the_largest_youden_index() -> None:
    probabilities = np.array([0.1, 0.2, 0.3, 0.4, 0.8])
    labels = np.array([False, False, True, False, True])
    assert publish.operating_point(probabilities, labels) == pytest.approx(0.3)


def test_the_documented_recipe_is_complete_and_states_the_defaults() -> None:
    documented = Path(__file__).resolve().parents[2] / "docs" / "model.md"
    (block,) = (
        part.partition("```")[0]
        for part in documented.read_text(encoding="utf-8").split("```toml\n")[1:]
        if "[optimization]" in part
    )
    stated = tomllib.loads(block)
    assert Recipe.model_validate(stated) == Recipe()
    complete = tomllib.loads("\n".join(line.removeprefix("#") for line in block.splitlines()))
    keys = {table: set(values) for table, values in complete.items() if isinstance(values, dict)}
    known = Recipe().model_dump()
    assert keys == {
        table: set(values) - {"mean", "std"} for table, values in known.items() if isinstance(values, dict)
    }
