"""`models` and what `train` refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pacs_node.analyze.package import MANIFEST, WEIGHTS
from pacs_node.cli import app
from pacs_node.errors import ConfigError, ModelError
from pacs_node.training import recipe as recipes

SHIPPED = Path(__file__).resolve().parents[2] / "models"


def test_models_lists_what_is_shipped() -> None:
    answer = CliRunner().invoke(app, ["models", "--json"])
    assert answer.exit_code == 0
    listed = {model["id"]: model for model in json.loads(answer.stdout)}
    assert set(listed) == {path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}")}
    model = listed["fracture-squeezenet-2"]
    assert 0.5 < model["test_auc"] < 1
    assert 0 < model["threshold"] < 1
    table = CliRunner().invoke(app, ["models"], env={"COLUMNS": "200"})
    assert model["name"] in table.stdout


def test_a_package_without_its_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    shutil.copy(SHIPPED / "fracture-squeezenet-2" / MANIFEST, tmp_path / "broken")
    answer = CliRunner().invoke(app, ["models", "--folder", str(tmp_path)])
    assert isinstance(answer.exception, ModelError)
    assert WEIGHTS in str(answer.exception)


def test_an_empty_folder_has_no_models(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["models", "--folder", str(tmp_path)])
    assert answer.exit_code == 0
    assert "no model package" in answer.stdout


@pytest.mark.parametrize("missing", ["--data", "--recipe"])
def test_train_names_what_is_not_there(missing: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    arguments = {"--data": str(tmp_path), "--recipe": str(tmp_path / "recipe.toml")}
    arguments[missing] = str(tmp_path / "absent")
    line = [part for pair in arguments.items() for part in pair]
    answer = CliRunner().invoke(app, ["train", *line, "--out", str(tmp_path / "m")])
    assert answer.exit_code == 2
    assert missing in answer.output


@pytest.fixture
def pneumonia(tmp_path: Path) -> Path:
    """A data set of chests with one image in each class and split."""
    for number, split in enumerate(("train", "val", "test")):
        for shade, label in enumerate(("healthy", "pneumonia")):
            folder = tmp_path / "chests" / split / label
            folder.mkdir(parents=True)
            picture = np.full((32, 32), 40 * number + 10 * shade, np.uint8)
            picture[8:24, 8 + number : 20 + shade] = 250
            Image.fromarray(picture).save(folder / f"{number}{shade}.png")
    return tmp_path / "chests"


def test_another_class_is_not_published_as_the_default_finding(pneumonia: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", str(pneumonia), "--positive", "pneumonia"]
    refused = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "m")])
    assert isinstance(refused.exception, ConfigError)
    assert "--positive pneumonia: the recipe has no [finding]" in str(refused.exception)
    assert not (tmp_path / "m").exists()
    checked = CliRunner().invoke(app, [*arguments, "--check"])
    assert not isinstance(checked.exception, ConfigError)


def test_a_recipe_with_labels_of_its_own_states_its_finding(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('labels = ["healthy", "pneumonia"]\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="finding: missing; state the code and phrases for 'pneumonia'"):
        recipes.load(recipe)
