"""`serve` and the roles that it starts."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from pacs_node.cli.context import of
from pacs_node.config import Settings
from pacs_node.errors import ConfigError

Supervised = Annotated[bool, typer.Option("--supervised", hidden=True, help="End when standard input ends.")]


def serve(context: typer.Context) -> None:
    """Run the node: all its roles, each a process of its own, until SIGTERM or Ctrl-C.

    Example: pacs-node --config /etc/pacs-node/config.toml serve
    """
    from pacs_node.journal.database import open_database
    from pacs_node.roles.lifecycle import stop_on_signals
    from pacs_node.roles.supervisor import supervise

    settings = of(context).settings()
    open_database(settings.database_url).close()
    roles = ["receive", *["worker"] * settings.node.workers, "deliver", "housekeep"]
    roles += ["web"] if settings.web.enabled else []
    raise typer.Exit(supervise(of(context).config, roles, stop_on_signals(supervised=False)))


def receive(context: typer.Context, supervised: Supervised = False) -> None:
    """Receive objects: the storage SCP and the intake."""
    from pacs_node.roles import receive as role

    _run(context, supervised, role.run)


def worker(context: typer.Context, supervised: Supervised = False) -> None:
    """Analyze images and report studies."""
    # Read when torch is loaded: threads that wait for each other must not spin while other processes work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pacs_node.roles import worker as role

    _run(context, supervised, lambda settings, stop: role.run(settings, stop, role.served_classifier))


def deliver(context: typer.Context, supervised: Supervised = False) -> None:
    """Send results to their destinations."""
    from pacs_node.roles import deliver as role

    _run(context, supervised, role.run)


def housekeep(
    context: typer.Context,
    run: Annotated[
        str, typer.Option(metavar="JOB", help="Do one job of the schedule now and end, such as backup.")
    ] = "",
    supervised: Supervised = False,
) -> None:
    """Do what the configuration's schedule says; of several such processes, one does it.

    Example: pacs-node housekeep --run backup
    """
    from pacs_node.roles import housekeep as role

    if not run:
        _run(context, supervised, role.run)
        return
    from pacs_node.operate import housekeeping

    database = of(context).database()
    jobs = role.calendar_jobs(of(context).settings(), database)
    if run not in jobs:
        raise ConfigError(f"--run {run}: no such job; the jobs are {', '.join(jobs)}")
    for key, value in housekeeping.run(database, run, jobs[run]).items():
        Console(highlight=False, markup=False).print(f"{key}: {value}")


def web(context: typer.Context, supervised: Supervised = False) -> None:
    """Serve the web page, /metrics and /health."""
    from pacs_node.roles import web as role

    _run(context, supervised, lambda settings, stop: role.run(settings, stop, of(context).config))


def _run(context: typer.Context, supervised: bool, role: Callable[[Settings, threading.Event], None]) -> None:
    from pacs_node.roles import lifecycle

    faulthandler.enable()
    settings = of(context).settings()
    role(settings, lifecycle.stop_on_signals(supervised))
