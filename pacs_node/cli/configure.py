"""`config init | check | show`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from pacs_node.cli.context import JsonOption, emit, invocation, working
from pacs_node.errors import ConfigError


def init(
    path: Annotated[Path, Argument(help="The new file.")] = Path("config.toml"),
    ae_title: Annotated[str | None, Option(metavar="AE", help="The node's AE title.")] = None,
    port: Annotated[int | None, Option(help="The node's DICOM port.")] = None,
    pacs_ae_title: Annotated[str | None, Option(metavar="AE", help="AE title of your PACS.")] = None,
    pacs_host: Annotated[str | None, Option(metavar="HOST", help="Its host name or address.")] = None,
    pacs_port: Annotated[int | None, Option(help="Its DICOM port.")] = None,
    retention_days: Annotated[int | None, Option(help="Days to keep delivered studies; 0 = all.")] = None,
    defaults: Annotated[bool, Option("--defaults", help="Ask nothing.")] = False,
) -> None:
    """Write a configuration file with every key, its meaning and its default.

    On a terminal it asks for what the options do not state. The PACS may send and gets the results.

    Example: pacs-node config init --pacs-ae-title ORTHANC --pacs-host 10.0.0.5 --pacs-port 4242
    """
    from pacs_node.cli.explain import document
    from pacs_node.config import Destination, NodeSettings, StorageSettings

    if path.exists():
        raise ConfigError(f"{path}: already exists; choose another path or remove it first")
    interactive = not defaults and sys.stdin.isatty() and sys.stdout.isatty()

    def ask(question: str, option: str, given: Any, default: Any, section: Any, key: str) -> Any:
        """A valid value: from the option, else from the user, else the default. Raises ConfigError."""

        def checked(answer: str) -> Any:
            try:
                return default if answer == default else _checked(section, key, answer)
            except ConfigError as error:
                raise typer.BadParameter(str(error)) from None

        if given is None and interactive:
            return typer.prompt(question, default, value_proc=checked, show_default=default != "")
        try:
            return default if given is None else _checked(section, key, given)
        except ConfigError as error:
            raise ConfigError(f"{option}: {error}") from None

    node = {
        "ae_title": ask("AE title of the node", "--ae-title", ae_title, "PACSNODE", NodeSettings, "ae_title"),
        "port": ask("DICOM port of the node", "--port", port, 11112, NodeSettings, "port"),
    }
    answers: dict[str, dict[str, Any]] = {"node": node}
    question = "AE title of the PACS (empty: not yet known)"
    if title := ask(question, "--pacs-ae-title", pacs_ae_title, "", Destination, "ae_title"):
        host = ask("Its host name or address", "--pacs-host", pacs_host, None, Destination, "host")
        if host is None:
            raise ConfigError("--pacs-ae-title needs --pacs-host")
        its_port = ask("Its DICOM port", "--pacs-port", pacs_port, 104, Destination, "port")
        answers["peers"] = {"name": "pacs", "ae_title": title, "host": host, "reply_to": ["pacs"]}
        answers["destinations"] = {"name": "pacs", "ae_title": title, "host": host, "port": its_port}
    elif pacs_host or pacs_port:
        raise ConfigError("--pacs-host and --pacs-port need --pacs-ae-title")
    question = "Delete studies how many days after delivery (0: never)"
    days = ask(question, "--retention-days", retention_days, 0, StorageSettings, "retention_days")
    answers["storage"] = {"retention_days": days}
    path.write_text(document(answers), encoding="utf-8")
    advice = (
        "`pacs-node config check` explains it" if title else "add your PACS as [[peers]] and [[destinations]]"
    )
    typer.echo(f"{path} written; {advice}")


def _checked(section: Any, key: str, value: Any) -> Any:
    """The value of a key, converted and checked. Raises ConfigError."""
    from pydantic import TypeAdapter, ValidationError

    field = section.model_fields[key]
    annotation: Any = Annotated[field.annotation, field]
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def check(context: typer.Context, as_json: JsonOption = False) -> None:
    """Check the configuration and its model package, and explain in plain words what the node does.

    Example: pacs-node config check
    """
    from pacs_node.cli.explain import explain
    from pacs_node.journal.database import Database
    from pacs_node.operate.doctor import examination

    settings = invocation(context).settings
    with working("checking the model"):
        from pacs_node.analyze import package

        package.load(settings.model.path)
    examination.confirm(settings)
    topics = [
        ("configuration", str(invocation(context).config or "defaults")),
        *explain(settings),
        ("journal", Database(settings.database_url).name),
        ("model", str(settings.model.path)),
    ]
    lines = [f"{topic}: {sentence}" for topic, sentence in topics]
    warnings = list(examination.warnings(settings))
    emit(
        {"explained": lines, "warnings": warnings},
        as_json,
        *lines,
        *(f"warning: {warning}" for warning in warnings),
    )


def show(context: typer.Context) -> None:
    """Print the settings in force as JSON: file, environment and defaults combined.

    Example: pacs-node config show
    """
    emit(invocation(context).settings.model_dump(mode="json"), True)
