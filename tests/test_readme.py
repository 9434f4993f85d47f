"""What the README says of commands and settings is what the program does."""

import re
from pathlib import Path

import pytest
import typer

from pacs_node.cli import app
from pacs_node.cli.explain import table

README = Path(__file__).resolve().parent.parent / "README.md"
DOCS = README.parent / "docs"
LINKS = [
    (page.relative_to(README.parent), link)
    for page in (README, *sorted(DOCS.glob("*.md")))
    for link in re.findall(r"\]\(([^)#]+)[)#]", page.read_text(encoding="utf-8"))
    if "://" not in link
]


def test_the_table_of_settings_matches_the_program() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    told = re.search(r"<!-- settings -->\n(.*)<!-- /settings -->", text, re.DOTALL)
    assert told
    assert told[1].strip() == table().strip()


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    for name in command.commands:  # type: ignore[attr-defined]
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", text), f"{name} is not in the README"


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_have_targets(page: Path, link: str) -> None:
    assert (README.parent / page.parent / link).exists()


def test_every_document_is_linked_from_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in text] == []


@pytest.mark.parametrize("page", [README, *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_commands_and_keys_of_the_documents_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    root = typer.main.get_command(app)
    for words in re.findall(r"pacs-node (?:--config \S+ )?([a-z]+(?: [a-z]+)?)(?=[ `\n])", text):
        first, *rest = words.split()
        if first in root.commands:  # type: ignore[attr-defined]
            group = root.commands[first]  # type: ignore[attr-defined]
            if rest and hasattr(group, "commands"):
                assert rest[0] in group.commands, f"pacs-node {words}"
    sections = set(re.findall(r"^\| `\[+([a-z.]+)\]", table(), re.MULTILINE))
    for section, key in re.findall(r"`\[\[?([a-z.]+)\]\]? ([a-z_]+)", text):
        if section in sections:
            assert re.search(rf"\| `\[+{section}\]+ {key}`", table()), f"[{section}] {key}"
