"""Commands of an administrator: `doctor`, `db migrate` and `users set | list | remove`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from pacs_node.cli.context import Invocation, JsonOption, Table, console, emit, invocation, user_name
from pacs_node.errors import ConfigError

if TYPE_CHECKING:
    from pacs_node.operate.doctor import Check, Step
    from pacs_node.web.users import Users

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}

NameArgument = Annotated[str, Argument(metavar="NAME", help="Login name.")]


def doctor(
    context: typer.Context,
    loop: Annotated[
        str | None,
        Option(metavar="DESTINATION", help="Send a phantom there; await its return and the results."),
    ] = None,
    as_: Annotated[
        str | None,
        Option("--as", metavar="AE_TITLE", help="--loop: AE title of the phantom's modality."),
    ] = None,
    seconds: Annotated[float, Option(min=1, help="--loop: time limit of each stage.")] = 120,
    as_json: JsonOption = False,
) -> None:
    """Check everything that the node needs, name what is wrong, and say how to correct it.

    Configuration, certificates, storage, database, ports, clocks, each destination (its answers, what it
    accepts, what must be configured there), model, device. Nothing is changed. Fails if a check
    fails.

    Example: pacs-node doctor --loop pacs --as XRAY1
    """
    from rich.text import Text

    from pacs_node.operate.doctor import Check, State

    checks: list[Check] = []
    code = 0
    terminal = console(stderr=as_json)

    def add(check: Check) -> None:
        checks.append(check)
        if not as_json:
            result = (f"{check.state:<5}", _COLOURS[check.state])
            terminal.print(Text.assemble(result, f"{check.what}: {check.found}"), soft_wrap=True)
            if check.advice:
                style = "" if check.state == State.OK else "bold"
                terminal.print(Text(f"     -> {check.advice}", style), soft_wrap=True)

    try:
        for step in _steps(invocation(context), loop, as_, seconds):
            with terminal.status(f"checking {step.what}"):
                for check in step.run():
                    add(check)
    except ConfigError as error:
        code = 2
        for line in str(error).splitlines():
            add(Check("configuration", State.FAIL, line, "correct it there; nothing else was checked"))
    ok, warnings, failed = (sum(check.state == state for check in checks) for state in State)
    emit([asdict(check) for check in checks], as_json, f"{ok} ok, {warnings} warnings, {failed} failed")
    if failed:
        raise typer.Exit(code or 1)


def _steps(run: Invocation, loop: str | None, as_: str | None, seconds: float) -> Iterator[Step]:
    from pacs_node.dicom import phantom
    from pacs_node.journal.database import Database
    from pacs_node.operate.doctor import Step, examination
    from pacs_node.operate.doctor.roundtrip import Loop

    settings = run.settings
    examination.confirm(settings)
    destination = run.destination("--loop", loop) if loop else None
    image = phantom.fractured_right()[0]
    with closing(Database(settings.database_url)) as database:
        yield from examination.steps(settings, str(run.config or "the defaults"), database, image)
        if destination:
            title = as_ or settings.node.ae_title
            trip = Loop(settings, database, destination, phantom.disposable_study(), seconds, title)
            yield Step(f"loop: {destination.name}", trip.run)


def migrate(context: typer.Context, as_json: JsonOption = False) -> None:
    """Bring the journal to this version's schema, forward only; creates it if there is none.

    Every command does this by itself; use this one to choose the time, after a backup.

    Example: pacs-node db migrate
    """
    from pacs_node.journal.database import Database

    database = Database(invocation(context).settings.database_url)
    before = database.revision
    database.migrate()
    after = database.revision
    if before is None:
        change = f"created at {after}"
    else:
        change = f"already at {after}" if before == after else f"migrated from {before} to {after}"
    emit({"journal": database.name, "from": before, "to": after}, as_json, f"{database.name}: {change}")


def set_user(
    context: typer.Context,
    name: NameArgument,
    role: Annotated[str, Option(help="viewer, radiologist or admin.")],
) -> None:
    """Add a user, or change role and password; the password is asked for or read from a pipe.

    viewer: states, results, figures and audit trail, but no patient, no image, no action. radiologist: also
    patients and images, and records labels. admin: also retries and discards, and sees the configuration.

    Example: pacs-node users set anna --role radiologist
    """
    from pacs_node.web.users import Role

    if role not in {*Role}:
        raise ConfigError(f"--role {role}: no such role; the roles are {', '.join(Role)}")
    users = _users(context)
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    users.set(name, Role(role), password)
    _end_sessions(context, name)
    typer.echo(f"{name} may log in as {role}; {users.path}")


def list_users(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the users.

    Example: pacs-node users list
    """
    rows = [{"name": name, "role": str(role)} for name, role in _users(context).roles.items()]
    emit(
        rows,
        as_json,
        Table(rows, ("name", "role"), "no users; add one: `pacs-node users set NAME --role admin`"),
    )


def remove_user(context: typer.Context, name: NameArgument) -> None:
    """Remove a user, whose sessions end at once.

    Example: pacs-node users remove anna
    """
    if not _users(context).remove(name):
        raise ConfigError(f"{name}: no such user; `pacs-node users list` lists them")
    _end_sessions(context, name)
    typer.echo(f"{name} is removed")


def _users(context: typer.Context) -> Users:
    from pacs_node.web.users import Users

    return Users(invocation(context).settings.web.users)


def _end_sessions(context: typer.Context, name: str) -> None:
    from pacs_node.journal import sessions

    if invocation(context).has_journal:
        sessions.end_all(invocation(context).database, name, user_name())
