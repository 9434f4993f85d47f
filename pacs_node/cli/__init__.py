"""The command line: one file for each family of verbs; heavy imports stay inside the bodies."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from pacs_node import __version__
from pacs_node.cli import (
    analyze,
    configure,
    database,
    demo,
    doctor,
    evaluate,
    feedback,
    inspect,
    outbox,
    reconcile,
    serve,
    train,
    users,
)
from pacs_node.cli.context import Context
from pacs_node.errors import ConfigError, ModelError, PacsNodeError

EXIT_CODES = "Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration."

app = typer.Typer(
    name="pacs-node",
    help=f"A DICOM node that reads X-rays for fractures and answers in the PACS. {EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config = typer.Typer(help="Write, check and show the configuration.", no_args_is_help=True)
db = typer.Typer(help="The journal's database.", no_args_is_help=True)
audit = typer.Typer(help="Read and verify the audit log.", no_args_is_help=True)
labels = typer.Typer(help="Labels that come back: record, list and export them.", no_args_is_help=True)
accounts = typer.Typer(help="Who may log in to the web page.", no_args_is_help=True)

VERBS: tuple[Callable[..., None], ...] = (
    serve.serve,
    demo.demo,
    analyze.analyze,
    doctor.doctor,
    inspect.status,
    inspect.studies,
    inspect.show,
    outbox.retry,
    outbox.quarantine,
    outbox.send,
    reconcile.reconcile,
    feedback.validate,
    train.train,
    evaluate.evaluate,
    train.models,
)
ROLES: tuple[Callable[..., None], ...] = (
    serve.receive,
    serve.worker,
    serve.deliver,
    serve.housekeep,
    serve.web,
)
CONFIG: tuple[Callable[..., None], ...] = (configure.init, configure.check, configure.show)
AUDIT: tuple[Callable[..., None], ...] = (inspect.verify, inspect.export)
FEEDBACK: tuple[Callable[..., None], ...] = (feedback.import_, feedback.list_, feedback.export)
USERS: tuple[Callable[..., None], ...] = (users.set_, users.list_, users.remove)

for verb in VERBS:
    app.command(epilog=EXIT_CODES)(verb)
for verb in ROLES:
    example = f"Example: pacs-node --config /etc/pacs-node/config.toml {verb.__name__}"
    app.command(epilog=f"{example}. {EXIT_CODES}", rich_help_panel="Roles (serve starts them)")(verb)
for verb in CONFIG:
    config.command(epilog=EXIT_CODES)(verb)
db.command(epilog=EXIT_CODES)(database.migrate)
for verb in AUDIT:
    audit.command(epilog=EXIT_CODES)(verb)
for verb in FEEDBACK:
    labels.command(verb.__name__.rstrip("_"), epilog=EXIT_CODES)(verb)
for verb in USERS:
    accounts.command(verb.__name__.rstrip("_"), epilog=EXIT_CODES)(verb)
app.add_typer(accounts, name="users")
app.add_typer(config, name="config")
app.add_typer(db, name="db")
app.add_typer(audit, name="audit")
app.add_typer(labels, name="feedback")


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"pacs-node {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Configuration file; without it ./config.toml if there is one.")
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Runs before every command."""
    default = Path("config.toml")
    context.obj = Context(
        config or (default if default.is_file() else None), debug, context.invoked_subcommand or ""
    )


def main() -> None:
    """Run the command line; an error is one line on standard error, with a traceback only for --debug."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Who reads us, such as `head`, has seen enough; the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _tell(error)
        sys.exit(2 if isinstance(error, ConfigError | ModelError) else 1)


def _tell(error: Exception) -> None:
    """Ours with its words, any other by its kind and place, since it may quote the data; roles log it."""
    is_ours = isinstance(error, PacsNodeError)
    if "--supervised" in sys.argv and structlog.is_configured():
        log = structlog.get_logger(__name__)
        log.error("role_failed", error=str(error)) if is_ours else log.exception("role_failed")
        return
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "pacs_node" in frame.filename]
    place = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    unexpected = f"unexpected {type(error).__name__}{place}; `pacs-node --debug ...` shows where it came from"
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"error: {error if is_ours else unexpected}", markup=False
    )
