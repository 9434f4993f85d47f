"""`config init | check | show`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

import typer
from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console

from pacs_node import toml
from pacs_node.cli.context import of, print_json, working
from pacs_node.config import AETitle, NodeSettings, Port, Settings, StorageSettings
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
    ae_title: Annotated[str | None, typer.Option(metavar="AE", help="Our AE title.")] = None,
    port: Annotated[int | None, typer.Option(help="Our DICOM port.")] = None,
    pacs_ae_title: Annotated[
        str | None, typer.Option(metavar="AE", help="The PACS's AE title: it may send, and gets the results.")
    ] = None,
    pacs_host: Annotated[str | None, typer.Option(metavar="HOST", help="Its host name or address.")] = None,
    pacs_port: Annotated[int | None, typer.Option(help="Its DICOM port.")] = None,
    retention_days: Annotated[
        int | None, typer.Option(help="Delete studies so many days after their delivery; 0 = never.")
    ] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Ask nothing.")] = False,
) -> None:
    """Write a configuration file with every key, its meaning and its default.

    On a terminal it asks for what the options do not say.

    Example: pacs-node config init --pacs-ae-title ORTHANC --pacs-host 10.0.0.5 --pacs-port 4242
    """
    if path.exists():
        raise ConfigError(f"{path}: exists already; name another path or remove it first")
    ask = _ask if not defaults and sys.stdin.isatty() and sys.stdout.isatty() else _take
    answers: dict[str, dict[str, Any]] = {"node": {}, "storage": {}}
    answers["node"]["ae_title"] = ask("Our AE title", ae_title, NodeSettings, "ae_title", "PACSNODE")
    answers["node"]["port"] = ask("Our DICOM port", port, NodeSettings, "port", 11112)
    title = ask("The PACS's AE title (empty: not yet known)", pacs_ae_title, _Pacs, "pacs_ae_title", "")
    if title:
        host = ask("Its host name or address", pacs_host, _Pacs, "pacs_host", None)
        if host is None:
            raise ConfigError("--pacs-ae-title needs --pacs-host")
        where = {"name": "pacs", "ae_title": title, "host": host}
        answers["peers"] = {**where, "reply_to": ["pacs"]}
        its_port = ask("Its DICOM port", pacs_port, _Pacs, "pacs_port", 104)
        answers["destinations"] = {**where, "kind": "dimse", "port": its_port}
    elif pacs_host or pacs_port:
        raise ConfigError("--pacs-host and --pacs-port need --pacs-ae-title")
    answers["storage"]["retention_days"] = ask(
        "Delete studies how many days after their delivery (0: never)",
        retention_days,
        StorageSettings,
        "retention_days",
        0,
    )
    path.write_text(document(answers), encoding="utf-8")
    then = (
        "see what it means: `pacs-node config check`"
        if title
        else "set [[peers]] and [[destinations]] to your PACS"
    )
    Console(highlight=False, markup=False).print(f"{path} written; {then}")


class _Pacs(BaseModel):
    """What is asked about the PACS."""

    pacs_ae_title: AETitle | Literal[""] = ""
    pacs_host: Annotated[str, Field(pattern=r"^\S+$")] = ""
    pacs_port: Port = 0


def _take(_question: str, given: Any, section: type[BaseModel], key: str, default: Any) -> Any:
    """What an option says, or the default. Raises ConfigError where it cannot be."""
    if given is None:
        return default
    try:
        return getattr(section.model_validate({key: given}), key)
    except ValidationError as error:
        raise ConfigError(
            f"--{key.replace('_', '-')}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from None


def _ask(question: str, given: Any, section: type[BaseModel], key: str, default: Any) -> Any:
    """The same, or else what the user answers, who is asked again until it can be."""

    def judged(answer: str) -> Any:
        try:
            return _take(question, answer, section, key, default)
        except ConfigError as error:
            raise typer.BadParameter(str(error).partition(": ")[2]) from None

    if given is not None:
        return _take(question, given, section, key, default)
    return typer.prompt(question, default=default, value_proc=judged, show_default=default != "")


def check(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Check the configuration and the model package that it names, and say in plain words what it does.

    Example: pacs-node config check
    """
    from pacs_node.cli.explain import explain
    from pacs_node.journal.database import Database
    from pacs_node.operate.doctor import configuration

    settings = of(context).settings()
    with working("checking the model"):
        from pacs_node.analyze import package

        package.load(settings.model.path)
    configuration.confirm(settings)
    told = [
        ("configuration", str(of(context).config or "defaults")),
        *explain(settings),
        ("journal", Database(settings.database_url).name),
        ("model", str(settings.model.path)),
    ]
    if json:
        print_json(
            {
                "explained": [f"{topic}: {said}" for topic, said in told],
                "warnings": list(configuration.warnings(settings)),
            }
        )
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for topic, said in told:
        console.print(f"{topic}: {said}")
    for warning in configuration.warnings(settings):
        console.print(f"warning: {warning}")


def show(context: typer.Context) -> None:
    """Print the settings in force, as JSON: the file, the environment and the defaults together.

    Example: pacs-node config show
    """
    print_json(of(context).settings().model_dump(mode="json"))


def document(answers: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> str:
    """The documented configuration file: every key with its default, or what `answers` says for its table.

    Tables of which there may be several are commented out unless there is an answer for them.
    """
    lines = ["# Configuration of pacs-node. Relative paths are relative to this file.", ""]
    for name, field in Settings.model_fields.items():
        model, answer = _model_of(field), answers.get(name, {})
        if name in _EXAMPLES:
            lines += [f"# {model.__doc__}", f"{'' if answer else '# '}[[{name}]]"]
            shown = answer or _EXAMPLES[name]
            lines += [
                ("" if key in answer else "# ")
                + f"{key} = {_toml(shown.get(key, item.default))}  # {item.description}"
                for key, item in model.model_fields.items()
                if item.default is not None or key in shown
            ]
            lines.append("")
        else:
            lines += _table(name, model, answer)
    return "\n".join(lines)


def table() -> str:
    """The settings as the table of docs/configuration.md."""
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


def _table(name: str, model: type[BaseModel], answer: Mapping[str, Any]) -> list[str]:
    lines, inner = [f"# {model.__doc__}", f"[{name}]"], []
    for key, field in model.model_fields.items():
        if _is_model(field):
            inner += _table(f"{name}.{key}", _model_of(field), {})
        elif field.default is None:
            lines.append(f"# {key} = {_toml((field.examples or [''])[0])}  # {field.description}")
        else:
            lines.append(f"{key} = {_toml(answer.get(key, field.default))}  # {field.description}")
    return [*lines, "", *inner]


def _is_model(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _model_of(field: FieldInfo) -> type[BaseModel]:
    candidates = [field.annotation, *get_args(field.annotation)]
    return next(item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))


def _toml(value: Any) -> str:
    if value is PydanticUndefined:
        raise TypeError("a key without a default needs an example")
    return toml.value(value.get_secret_value() if isinstance(value, SecretStr) else value)
