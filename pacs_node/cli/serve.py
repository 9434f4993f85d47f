"""`serve` and the roles that it starts."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from pacs_node.cli.context import invocation
from pacs_node.errors import ConfigError

if TYPE_CHECKING:
    import threading

    from pacs_node.config import Settings

SupervisedOption = Annotated[bool, Option("--supervised", hidden=True, help="Stop at the end of input.")]


def serve(context: typer.Context) -> None:
    """Run the node: each role in a process of its own, until SIGTERM or Ctrl-C.

    Example: pacs-node --config /etc/pacs-node/config.toml serve
    """
    from pacs_node.journal.database import open_database
    from pacs_node.roles.lifecycle import stop_on_signals
    from pacs_node.roles.supervisor import supervise

    settings = invocation(context).settings
    open_database(settings.database_url).close()
    roles = ["receive", *["worker"] * settings.node.workers, "deliver", "housekeep"]
    roles += ["web"] if settings.web.enabled else []
    raise typer.Exit(supervise(invocation(context).config, roles, stop_on_signals(supervised=False)))


def receive(context: typer.Context, supervised: SupervisedOption = False) -> None:
    """Receive objects: the storage SCP and the intake."""
    from pacs_node.roles import receive as role

    _run(context, supervised, role.run)


def worker(context: typer.Context, supervised: SupervisedOption = False) -> None:
    """Analyze images and report studies."""
    # Read when torch is loaded: threads that wait for each other must not spin while other processes work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pacs_node.roles import worker as role

    _run(context, supervised, lambda settings, stop: role.run(settings, stop, role.served_classifier))


def deliver(context: typer.Context, supervised: SupervisedOption = False) -> None:
    """Send results to their destinations."""
    from pacs_node.roles import deliver as role

    _run(context, supervised, role.run)


def housekeep(
    context: typer.Context,
    run: Annotated[str, Option(metavar="JOB", help="Run one job now, such as backup, and exit.")] = "",
    supervised: SupervisedOption = False,
) -> None:
    """Run the scheduled jobs; of several such processes, only one is active.

    Example: pacs-node housekeep --run backup
    """
    from pacs_node.roles import housekeep as role

    if not run:
        _run(context, supervised, role.run)
        return
    from pacs_node.operate import housekeeping

    settings, database = invocation(context).settings, invocation(context).database
    jobs = role.calendar_jobs(settings, database)
    if run not in jobs:
        raise ConfigError(f"--run {run}: no such job; the jobs are {', '.join(jobs)}")
    for key, value in housekeeping.run(database, run, jobs[run]).items():
        typer.echo(f"{key}: {value}")


def web(context: typer.Context, supervised: SupervisedOption = False) -> None:
    """Serve the web pages, /metrics and /health."""
    from pacs_node.roles import web as role

    _run(context, supervised, lambda settings, stop: role.run(settings, stop, invocation(context).config))


def _run(context: typer.Context, supervised: bool, role: Callable[[Settings, threading.Event], None]) -> None:
    from pacs_node.roles import lifecycle

    faulthandler.enable()
    settings = invocation(context).settings
    role(settings, lifecycle.stop_on_signals(supervised))
