"""Options and output that the commands share.

Heavy imports stay inside of functions, here and in the commands: help and completion must answer at once.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer import Argument, Option

from pacs_node.errors import ConfigError, JournalError, PacsNodeError

if TYPE_CHECKING:
    from rich.console import Console

    from pacs_node.config import Destination, Settings
    from pacs_node.journal.database import Database

T = TypeVar("T")

PROGRESS_SECONDS = 1.0
"""Progress is shown for what takes longer."""

STUDIES_OFFERED = 30
"""Number of recent studies that shell completion offers."""


@dataclass(frozen=True)
class Invocation:
    """The global options and the name of the command."""

    config: Path | None
    debug: bool
    command: str = ""

    @cached_property
    def settings(self) -> Settings:
        """The settings; also sets up the log as they say. Raises ConfigError."""
        from pacs_node.cli.log import configure_log
        from pacs_node.config import load

        settings = load(self.config)
        configure_log(settings, self.command)
        return settings

    @property
    def has_journal(self) -> bool:
        """Whether the configured database exists."""
        from pacs_node.journal.database import Database

        return Database(self.settings.database_url).exists

    @cached_property
    def database(self) -> Database:
        """The journal, migrated to this version's schema.

        Raises JournalError if there is none: an empty new one would look like a node that received nothing.
        """
        from pacs_node.journal.database import Database

        database = Database(self.settings.database_url)
        if not database.exists:
            raise JournalError(
                f"{database.name}: no journal there; pass the node's configuration with --config"
            )
        database.migrate()
        return database

    def destination(self, option: str, name: str) -> Destination:
        """The configured destination of this name. Raises ConfigError, which lists those that there are."""
        for destination in self.settings.destinations:
            if destination.name == name:
                return destination
        names = ", ".join(destination.name for destination in self.settings.destinations) or "none"
        raise ConfigError(f"{option} {name}: no such destination; configured: {names}")


def invocation(context: typer.Context) -> Invocation:
    """The global options of this run."""
    if not isinstance(context.obj, Invocation):
        raise TypeError("the command was started without the root callback")
    return context.obj


def files_in(paths: Iterable[Path]) -> list[Path]:
    """The given files and all files in the given folders, each once, sorted."""
    candidates = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))}
    return sorted(file for file in candidates if file.is_file())


def user_name() -> str:
    """The user of the operating system, as the process has it and not as the environment claims."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def complete_destination(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the configured destinations, for the shell."""
    settings = _settings_for_completion(context)
    names = [destination.name for destination in settings.destinations] if settings else []
    return [name for name in names if name.startswith(incomplete)]


def complete_study(context: typer.Context, incomplete: str) -> list[str]:
    """Study Instance UIDs for the shell, newest first."""
    from pacs_node.journal import views
    from pacs_node.journal.database import Database

    try:
        settings = _settings_for_completion(context)
        database = Database(settings.database_url) if settings else None
        rows = views.studies(database, STUDIES_OFFERED) if database and database.is_current else []
    except PacsNodeError:
        return []
    return [uid for row in rows if (uid := row["study_instance_uid"]).startswith(incomplete)]


def _settings_for_completion(context: typer.Context) -> Settings | None:
    """The settings as the root callback, which does not run now, would read them; None if they are wrong."""
    from pacs_node.config import load

    try:
        return load(config_path(context.find_root().params.get("config")))
    except PacsNodeError:
        return None


def config_path(given: Path | None) -> Path | None:
    """The configuration file: the given one, else ./config.toml if it exists."""
    default = Path("config.toml")
    return given or (default if default.is_file() else None)


JsonOption = Annotated[bool, Option("--json", help="Print JSON.")]
PathsArgument = Annotated[
    list[Path], Argument(exists=True, metavar="PATH...", help="Files, or folders of files.")
]
StudyArgument = Annotated[
    str, Argument(metavar="STUDY", help="Study Instance UID.", autocompletion=complete_study)
]


def console(stderr: bool = False) -> Console:
    """The terminal, for tables, colours and progress."""
    from rich.console import Console

    terminal = Console(stderr=stderr, highlight=False)
    if not terminal.is_terminal:
        # Tables keep one line a row, for grep and the like.
        terminal.width = 1000
    return terminal


HEADINGS = {
    "address": "serves",
    "comment": "answer",
    "last_comment": "answer",
    "model_id": "model",
    "path": "file",
    "sop_instance_uid": "object",
    "study_instance_uid": "study",
    "summary": "result",
}
"""Headings of columns, by key; other keys are headings themselves."""


@dataclass(frozen=True)
class Table:
    """Rows to be printed, with the keys that are columns; `empty` is printed if there are no rows."""

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    empty: str


def emit(data: Any, as_json: bool, *parts: str | Table) -> None:
    """Print `data` as JSON for programs, or `parts` for people."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")
        return
    for part in parts:
        if isinstance(part, str):
            typer.echo(part)
        elif not part.rows:
            typer.echo(part.empty)
        else:
            import rich.table
            from rich.text import Text

            table = rich.table.Table(show_edge=False, pad_edge=False)
            for key in part.columns:
                heading = HEADINGS.get(key, key.removesuffix("_at").replace("_", " "))
                table.add_column(heading, overflow="fold")
            for row in part.rows:
                table.add_row(*(Text(cell(key, row.get(key))) for key in part.columns))
            console().print(table)


def cell(key: str, value: Any) -> str:
    """A value for people: times (keys that end in `_at`) in local time, nothing for None."""
    if value is None:
        return ""
    if key.endswith("_at") and isinstance(value, float):
        return datetime.fromtimestamp(value, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def progress(
    items: Iterable[T], label: str, total: int | None = None, weight: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """The same items, with a progress bar on a terminal once they take longer than PROGRESS_SECONDS.

    `weight` is an item's share of `total`.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import Progress

    shown_at, done = time.monotonic(), 0
    # Not redirected: what is written to a file meanwhile belongs there and not above the bar.
    bar = Progress(console=console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
    task = bar.add_task(label, total=total)
    try:
        for item in items:
            done += weight(item)
            # Seldom: there may be millions.
            if time.monotonic() - shown_at > PROGRESS_SECONDS:
                bar.start()
                bar.update(task, completed=done)
                shown_at += PROGRESS_SECONDS / 4
            yield item
    finally:
        bar.stop()


def working(label: str) -> AbstractContextManager[object]:
    """Show on a terminal what is going on, until it is done."""
    return console(stderr=True).status(label) if sys.stderr.isatty() else nullcontext()
