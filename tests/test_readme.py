"""What the README says of commands and settings is what the program does."""

import re
from pathlib import Path

import pytest
import typer

from pacs_node.cli import app
from pacs_node.cli.configure import table

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_table_of_settings_is_the_programs() -> None:
    text = README.read_text(encoding="utf-8")
    told = re.search(r"<!-- settings -->\n(.*)<!-- /settings -->", text, re.DOTALL)
    assert told
    assert told[1].strip() == table().strip()


def test_every_command_stands_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    for name in command.commands:  # type: ignore[attr-defined]
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", text), f"{name} is not in the README"


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")))
def test_links_lead_somewhere(link: str) -> None:
    assert (README.parent / link).exists()
