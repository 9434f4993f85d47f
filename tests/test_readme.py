"""The documents: their commands parse, their code is valid, their links lead somewhere, their keys exist."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
import typer
from pydantic import BaseModel, SecretStr

from pacs_node import toml
from pacs_node.cli import app
from pacs_node.config import Settings

CHECKOUT = Path(__file__).resolve().parent.parent
README = CHECKOUT / "README.md"
DOCS = CHECKOUT / "docs"
PAGES = [
    README,
    *(CHECKOUT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")),
    CHECKOUT / "storage" / "README.md",
    *sorted(DOCS.glob("*.md")),
]
USAGE_ERROR: Any = typer.BadParameter.__base__
COMMAND: Any = typer.main.get_command(app)
TARGETS = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
LINKS = [
    (page.relative_to(CHECKOUT), link)
    for page in PAGES
    for link in re.findall(r"\]\(([^)#]+)[)#]", page.read_text(encoding="utf-8"))
    if "://" not in link
]


def table() -> str:
    """The settings as docs/configuration.md lists them."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        repeated = get_origin(field.annotation) is tuple
        lines += rows(f"[[{name}]]" if repeated else f"[{name}]", toml.submodel(field.annotation))
    return "\n".join(lines)


def rows(heading: str, section: type[BaseModel] | None) -> Iterator[str]:
    assert section, heading
    for key, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from rows(f"{heading[:-1]}.{key}]", type(field.default))
            continue
        value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        default = "required" if field.is_required() else "" if value is None else f"`{toml.value(value)}`"
        yield f"| `{heading} {key}` | {default} | {field.description} |"


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    yield from re.findall(
        r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def inline(page: Path) -> list[str]:
    """The code in single backticks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, without redirections."""
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in lexer:
        if set(word) <= set("|&;"):
            yield words
            words = []
        else:
            words.append(word)
    yield words[: words.index(">")] if ">" in words else words


def problem(words: list[str]) -> str:
    """Why a command of this program or of make cannot be run; empty if it can or is another program."""
    if words[:1] == ["make"]:
        unknown = [word for word in words[1:] if "=" not in word and word not in TARGETS]
        return f"no such target: {unknown}" if unknown else ""
    if not words or Path(words[0]).name != "pacs-node":
        return ""
    command, arguments = COMMAND, words[1:]
    while True:
        context = command.context_class(command, info_name=words[0])
        try:
            values, arguments, _ = command.make_parser(context).parse_args(list(arguments))
        except USAGE_ERROR as error:
            return str(error)
        if not hasattr(command, "commands"):
            missing = [item.name for item in command.params if item.required and not values.get(item.name)]
            return f"missing: {missing}" if missing else ""
        if not arguments:
            return ""
        if arguments[0] not in command.commands:
            return f"no such command: {arguments[0]}"
        command, arguments = command.commands[arguments[0]], arguments[1:]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pacs-node train --data DIR --check", ""),
        ("pacs-node train --check", "missing: ['data']"),
        ("pacs-node --config c.toml users set anna --role admin && make test", ""),
        ("pacs-node users ad", "no such command: ad"),
        ("make tset", "no such target: ['tset']"),
    ],
)
def test_problems_of_commands_are_noticed(line: str, expected: str) -> None:
    assert next(filter(None, map(problem, simple_commands(line))), "") == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_are_valid(page: Path) -> None:
    for language, code in blocks(page):
        match language:
            case "sh":
                done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
                assert done.stderr == ""
                for line in code.splitlines():
                    for words in simple_commands(line):
                        assert problem(words) == "", line
            case "toml":
                data = tomllib.loads(code)
                if set(data) <= set(Settings.model_fields) and page.name != "model.md":
                    Settings.model_validate(data)
            case "json":
                json.loads(code if code.startswith(("{", "[")) else f"{{{code}}}")
            case "python":
                ast.parse(code)
            case _:
                assert language in {"mermaid", "nginx", "text"}, f"```{language}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_can_be_run(page: Path) -> None:
    for code in inline(page):
        if code.startswith(("pacs-node ", "make ")):
            words = shlex.split(code)
            # The bare name of a command stands for the command itself.
            if words[0] == "make" or any(word.startswith("-") for word in words):
                assert problem(words) == "", code


@pytest.mark.parametrize("command", [*COMMAND.commands])
def test_examples_in_the_help_can_be_run(command: str) -> None:
    group = COMMAND.commands[command]
    for leaf in getattr(group, "commands", {"": group}).values():
        text = f"{leaf.help}\n{leaf.epilog}"
        examples = re.findall(r"Example: (pacs-node .*?)(?:\. Exit codes.*)?$", text, re.MULTILINE)
        assert examples
        for example in examples:
            assert problem(next(simple_commands(example))) == "", example


def test_the_table_of_settings_matches_the_program() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    documented = re.search(r"<!-- settings -->\n(.*)<!-- /settings -->", text, re.DOTALL)
    assert documented
    assert documented[1].strip() == table().strip()


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for name in COMMAND.commands:
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", text), f"{name} is not in the README"


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_have_targets(page: Path, link: str) -> None:
    assert (CHECKOUT / page.parent / link).exists()


def test_every_document_is_linked_from_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_keys_of_the_documents_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in re.findall(r"pacs-node (?:--config \S+ )?([a-z]+(?: [a-z]+)?)(?=[ `\n])", text):
        first, *rest = words.split()
        if first in COMMAND.commands:
            group = COMMAND.commands[first]
            if rest and hasattr(group, "commands"):
                assert rest[0] in group.commands, f"pacs-node {words}"
    sections = set(re.findall(r"^\| `\[+([a-z.]+)\]", table(), re.MULTILINE))
    for section, key in re.findall(r"`\[\[?([a-z.]+)\]\]? ([a-z_]+)", text):
        if section in sections:
            assert re.search(rf"\| `\[+{section}\]+ {key}`", table()), f"[{section}] {key}"
