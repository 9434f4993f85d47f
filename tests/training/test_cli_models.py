"""`models` and what `train` refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pacs_node.analyze.package import MANIFEST, WEIGHTS
from pacs_node.cli import app
from pacs_node.errors import ModelError

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
