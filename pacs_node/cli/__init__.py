"""The command line: one module for each family of commands."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from pacs_node import __version__
from pacs_node.cli import administer, configure, inspect, labels, local, models, outbox, serve
from pacs_node.cli.context import Invocation, config_path
from pacs_node.errors import ConfigError, ModelError, PacsNodeError

EXIT_CODES = "Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration."

COMMANDS: dict[str, Callable[..., None]] = {
    "serve": serve.serve,
    "demo": local.demo,
    "analyze": local.analyze,
    "doctor": administer.doctor,
    "status": inspect.status,
    "studies": inspect.studies,
    "show": inspect.show,
    "retry": outbox.retry,
    "quarantine": outbox.quarantine,
    "send": outbox.send,
    "reconcile": outbox.reconcile,
    "validate": labels.validate,
    "train": models.train,
    "evaluate": models.evaluate,
    "models": models.list_models,
}
ROLES: dict[str, Callable[..., None]] = {
    "receive": serve.receive,
    "worker": serve.worker,
    "deliver": serve.deliver,
    "housekeep": serve.housekeep,
    "web": serve.web,
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "users": (
        "Accounts for the web pages.",
        {"set": administer.set_user, "list": administer.list_users, "remove": administer.remove_user},
    ),
    "config": (
        "Write, check and show the configuration.",
        {"init": configure.init, "check": configure.check, "show": configure.show},
    ),
    "db": ("The journal's database.", {"migrate": administer.migrate}),
    "audit": ("Verify and export the audit log.", {"verify": inspect.verify, "export": inspect.export}),
    "feedback": (
        "Import, list and export labels.",
        {"import": labels.import_labels, "list": labels.list_labels, "export": labels.export_labels},
    ),
}

app = typer.Typer(
    name="pacs-node",
    help=f"A DICOM node that reads X-rays for fractures and answers in the PACS. {EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in COMMANDS.items():
    app.command(name, epilog=EXIT_CODES)(command)
for name, command in ROLES.items():
    epilog = f"Example: pacs-node --config /etc/pacs-node/config.toml {name}. {EXIT_CODES}"
    app.command(name, epilog=epilog, rich_help_panel="Roles (serve starts them)")(command)
for name, (description, commands) in GROUPS.items():
    group = typer.Typer(help=description, no_args_is_help=True)
    app.add_typer(group, name=name)
    for subname, command in commands.items():
        group.command(subname, epilog=EXIT_CODES)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pacs-node {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None, Option(help="Configuration file; default: ./config.toml if it exists.")
    ] = None,
    debug: Annotated[bool, Option(help="Show tracebacks.")] = False,
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Runs before every command."""
    context.obj = Invocation(config_path(config), debug, context.invoked_subcommand or "")


def main() -> None:
    """Run the command line; an error is one line on standard error, with a traceback only for --debug."""
    if sys.stdout.isatty():
        # Boxes and colours for people; Rich takes longer to load than all the rest that help needs.
        app.rich_markup_mode = "rich"
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; the interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _report(error)
        sys.exit(2 if isinstance(error, ConfigError | ModelError) else 1)


def _report(error: Exception) -> None:
    """Print this program's errors; of others only type and place, since their messages may quote data."""
    expected = isinstance(error, PacsNodeError)
    if "--supervised" in sys.argv:
        import structlog

        if structlog.is_configured():
            log = structlog.get_logger(__name__)
            log.error("role_failed", error=str(error)) if expected else log.exception("role_failed")
            return
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "pacs_node" in frame.filename]
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    unexpected = f"unexpected {type(error).__name__}{place}; `pacs-node --debug ...` shows where it came from"
    typer.echo(f"error: {error if expected else unexpected}", err=True)
