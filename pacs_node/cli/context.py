"""What every command is given: the configuration, read when first asked for, and how to print."""

from __future__ import annotations

import json
import logging
import os
import pwd
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pacs_node.config import Settings, load
from pacs_node.errors import JournalError

if TYPE_CHECKING:
    from pacs_node.journal.database import Database

T = TypeVar("T")

PROGRESS_SECONDS = 1.0
"""What takes longer shows how far it is."""


@dataclass(frozen=True)
class Context:
    """The global options, and which command it is."""

    config: Path | None
    debug: bool
    command: str = ""

    def settings(self) -> Settings:
        """The settings; also sets up the log, which they configure. Raises ConfigError."""
        settings = load(self.config)
        configure_log(settings, self.command)
        return settings

    def database(self) -> Database:
        """The journal at this version's schema, for the commands that look into it.

        Raises JournalError where there is none: to make an empty one would look like a node that got nothing.
        """
        from pacs_node.journal.database import Database

        database = Database(self.settings().database_url)
        if not database.exists:
            raise JournalError(
                f"{database.name}: no journal there; name the node's configuration with --config"
            )
        database.migrate()
        return database


def of(context: typer.Context) -> Context:
    """The global options of this run."""
    found = context.obj
    if not isinstance(found, Context):
        raise TypeError("the command was started without the root callback")
    return found


def configure_log(settings: Settings, role: str = "") -> None:
    """Log to standard error at the level and in the format of the settings; each line names role and pid.

    pydicom and pynetdicom quote values of the data set in what they log and warn about; patients' data must
    not get into the log, so they speak only at the debug level.
    """
    level = logging.getLevelNamesMapping()[settings.log.level.upper()]
    others = logging.WARNING if level == logging.DEBUG else logging.CRITICAL
    logging.basicConfig(stream=sys.stderr, level=others, format="%(levelname)s %(name)s %(message)s")
    logging.captureWarnings(True)
    for name in ("pydicom", "pynetdicom", "highdicom", "py.warnings"):
        logging.getLogger(name).setLevel(others)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
    )

    def of_process(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        # Not a context variable: threads begin with none.
        return {**event, "role": role, "pid": os.getpid()}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            of_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if level == logging.DEBUG else _where_only,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _where_only(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Log of an error where it arose and of what kind it is; its words may quote the data set."""
    if event.pop("exc_info", None):
        kind, _, trace = sys.exc_info()
        frames = "".join(traceback.format_tb(trace))
        event["exception"] = f"{frames}{kind.__name__ if kind else 'unknown error'}"
    return event


def print_json(data: Any) -> None:
    """Print data as JSON for other programs."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(rows: list[dict[str, Any]], columns: dict[str, str], empty: str) -> None:
    """Print rows as a table for people; `columns` maps keys to headings."""
    console = Console()
    if not console.is_terminal:
        # For grep and the like, a row is a line.
        console.width = 1000
    if not rows:
        console.print(empty)
        return
    table = Table(show_edge=False, pad_edge=False)
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(key, row.get(key))) for key in columns))
    console.print(table)


def shown(key: str, value: Any) -> str:
    """One value for people: times in local time, nothing for None."""
    if value is None:
        return ""
    if key.endswith("_at") and isinstance(value, float):
        return datetime.fromtimestamp(value, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def progress(
    items: Iterable[T], what: str, total: int | None = None, weight: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """The same items, with a progress bar on standard error once they take longer than a moment.

    `weight` is how much of `total` an item is.
    """
    shown, done = time.monotonic(), 0
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=total)
    try:
        for item in items:
            done += weight(item)
            # Seldom: there may be millions.
            if time.monotonic() - shown > PROGRESS_SECONDS:
                bar.start()
                bar.update(task, completed=done)
                shown += PROGRESS_SECONDS / 4
            yield item
    finally:
        bar.stop()


def working(what: str) -> AbstractContextManager[object]:
    """Say on a terminal what takes its time, until it is done."""
    return Console(stderr=True).status(what)


def who() -> str:
    """The user of the operating system, as the process has it and not as the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
