"""`config init | check | show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console

from pacs_node.cli.context import of, print_json
from pacs_node.config import Settings
from pacs_node.errors import ConfigError

_EXAMPLES: dict[str, dict[str, Any]] = {
    "peers": {"name": "pacs", "ae_title": "ORTHANC", "host": "10.0.0.0/8", "reply_to": ["pacs"]},
    "destinations": {
        "name": "pacs",
        "kind": "dimse",
        "ae_title": "ORTHANC",
        "host": "10.0.0.5",
        "port": 4242,
    },
}


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("config.toml"),
) -> None:
    """Write a configuration file with every key, its meaning and its default.

    Example: pacs-node config init config.toml
    """
    if path.exists():
        raise ConfigError(f"{path}: exists already; name another path or remove it first")
    path.write_text(document(), encoding="utf-8")
    Console(highlight=False, markup=False).print(
        f"{path} written; set [[peers]] and [[destinations]] to your PACS"
    )


def check(context: typer.Context) -> None:
    """Check the configuration and the model package that it names."""
    from pacs_node.analyze import package
    from pacs_node.journal.database import Database
    from pacs_node.operate.doctor import configuration

    settings = of(context).settings()
    package.load(settings.model.path)
    configuration.confirm(settings)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"configuration: {of(context).config or 'defaults'}")
    console.print(f"listens as {settings.node.ae_title} on {settings.node.host}:{settings.node.port}")
    console.print(f"journal: {Database(settings.database_url).name}")
    console.print(f"model: {settings.model.path}")
    for warning in configuration.warnings(settings):
        console.print(f"warning: {warning}")


def show(context: typer.Context) -> None:
    """Print the settings in force, as JSON: the file, the environment and the defaults together."""
    print_json(of(context).settings().model_dump(mode="json"))


def document() -> str:
    """The documented configuration file: every key with its default; optional tables are commented out."""
    lines = ["# Configuration of pacs-node. Relative paths are relative to this file.", ""]
    for name, field in Settings.model_fields.items():
        model = _model_of(field)
        if name in _EXAMPLES:
            lines += [f"# {model.__doc__}", f"# [[{name}]]"]
            lines += [
                f"# {key} = {_toml(_EXAMPLES[name].get(key, item.default))}  # {item.description}"
                for key, item in model.model_fields.items()
                if item.default is not None or key in _EXAMPLES[name]
            ]
            lines.append("")
        else:
            lines += _table(name, model)
    return "\n".join(lines)


def table() -> str:
    """The settings as the README's table in Markdown."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines += _rows(f"[[{name}]]" if name in _EXAMPLES else f"[{name}]", _model_of(field))
    return "\n".join(lines)


def _rows(section: str, model: type[BaseModel]) -> list[str]:
    rows = []
    for key, field in model.model_fields.items():
        if _is_model(field):
            rows += _rows(f"{section[:-1]}.{key}]", _model_of(field))
            continue
        required = field.default is PydanticUndefined
        default = "required" if required else "" if field.default is None else f"`{_toml(field.default)}`"
        rows.append(f"| `{section} {key}` | {default} | {field.description} |")
    return rows


def _table(name: str, model: type[BaseModel]) -> list[str]:
    lines, inner = [f"# {model.__doc__}", f"[{name}]"], []
    for key, field in model.model_fields.items():
        if _is_model(field):
            inner += _table(f"{name}.{key}", _model_of(field))
        elif field.default is None:
            lines.append(f"# {key} = {_toml((field.examples or [''])[0])}  # {field.description}")
        else:
            lines.append(f"{key} = {_toml(field.default)}  # {field.description}")
    return [*lines, "", *inner]


def _is_model(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _model_of(field: FieldInfo) -> type[BaseModel]:
    candidates = [field.annotation, *get_args(field.annotation)]
    return next(item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))


def _toml(value: Any) -> str:
    if value is PydanticUndefined:
        raise TypeError("a key without a default needs an example")
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
