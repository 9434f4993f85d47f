"""`doctor`: why it does not work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from pacs_node.cli.context import Context, of, print_json
from pacs_node.errors import ConfigError

if TYPE_CHECKING:
    from pacs_node.operate.doctor import Check, Step

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    context: typer.Context,
    loop: Annotated[
        str | None,
        typer.Option(
            metavar="DESTINATION",
            help="Also send a phantom study there, and wait until its rule has brought it to us and the "
            "results are back.",
        ),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="AE_TITLE",
            help="--loop: call the PACS as this modality: many rules forward nothing that comes from us.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="--loop: how long to wait for each stage.")] = 120,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check everything that the node needs, name what is wrong, and say what to do about it.

    Configuration, certificates, storage, database, ports, clocks, each destination (what it answers, what it
    takes, what it must be told of us), decoders, model, device. Nothing is changed. Fails where a check does.

    Example: pacs-node doctor --loop pacs --as XRAY1
    """
    from pacs_node.operate.doctor import Check, State

    checks: list[Check] = []
    console = Console(highlight=False, soft_wrap=True)
    progress = Console(stderr=True) if json else console
    code = 0
    try:
        for step in _steps(of(context), loop, as_, seconds):
            with progress.status(f"checking {step.what}"):
                for check in step.run():
                    checks.append(check)
                    if not json:
                        _show(console, check)
    except ConfigError as error:
        code = 2
        for line in str(error).splitlines():
            checks.append(
                Check("configuration", State.FAIL, line, "correct it there; nothing else was checked")
            )
            if not json:
                _show(console, checks[-1])
    if json:
        print_json([asdict(check) for check in checks])
    else:
        ok, warnings, failed = (sum(check.state == state for check in checks) for state in State)
        console.print(f"{ok} ok, {warnings} warnings, {failed} failed")
    if code or any(check.state == State.FAIL for check in checks):
        raise typer.Exit(code or 1)


def _steps(context: Context, loop: str | None, as_: str | None, seconds: float) -> Iterator[Step]:
    from pacs_node.demo import images, phantom
    from pacs_node.journal.database import Database
    from pacs_node.operate.doctor import Step, configuration, examination
    from pacs_node.operate.doctor.loop import Loop

    settings = context.settings()
    configuration.confirm(settings)
    chosen = next((one for one in settings.destinations if one.name == loop), None)
    if loop and chosen is None:
        names = ", ".join(one.name for one in settings.destinations) or "none"
        raise ConfigError(f"--loop {loop}: no such destination; configured: {names}")
    image = phantom.dataset(23, fractured=True, rows=2048, columns=1638)
    with closing(Database(settings.database_url)) as database:
        yield from examination.steps(settings, str(context.config or "the defaults"), database, image)
        if chosen:
            title = as_ or settings.node.ae_title
            trip = Loop(settings, database, chosen, images.test_study(), seconds, title)
            yield Step(f"loop: {chosen.name}", trip.run)


def _show(console: Console, check: Check) -> None:
    console.print(Text.assemble((f"{check.state:<5}", _COLOURS[check.state]), f"{check.what}: {check.found}"))
    if check.advice:
        console.print(Text(f"     -> {check.advice}", style="" if check.state == "ok" else "bold"))
