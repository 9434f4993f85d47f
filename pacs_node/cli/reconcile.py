"""What is missing on either side: reconcile."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from pacs_node.cli import complete
from pacs_node.cli.context import of, print_json, print_table, progress, who
from pacs_node.errors import ConfigError


def reconcile(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=0, help="So many days back, and today.")] = 1,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day, instead of --days.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day, instead of today.")
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Ask this destination only; else all with a query AE.",
            autocompletion=complete.destinations,
        ),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Send missing results again, and have missing images sent to us.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask the PACS for every study of some days and list what is missing on either side.

    X-rays that the PACS has and that were never received; results that the PACS does not have; what failed
    or was quarantined. Fails where something is missing and not fixed. For images, the PACS must know our AE
    title and address.

    Example: pacs-node reconcile --days 7 --fix
    """
    from pacs_node.operate.reconcile import reconcile as compare

    settings = of(context).settings()
    last = until.date() if until else datetime.now().astimezone().date()
    first = since.date() if since else last - timedelta(days=days)
    if first > last:
        raise ConfigError(f"--since {first} lies after --until {last}")
    asked = [one for one in settings.destinations if one.query_address and destination in (None, one.name)]
    if not asked:
        names = ", ".join(one.name for one in settings.destinations if one.query_address) or "none"
        raise ConfigError(f"--destination: no such destination with an AE to query; there are: {names}")
    database = of(context).database()
    gaps = compare(
        settings, database, asked, first, last, who(), fix, partial(progress, what="asking for studies")
    )
    if json:
        print_json([asdict(gap) for gap in gaps])
    else:
        columns = {
            "missing": "missing",
            "destination": "destination",
            "study_instance_uid": "study",
            "sop_instance_uid": "object",
            "detail": "detail",
            "fixed": "fixed",
        }
        print_table([asdict(gap) for gap in gaps], columns, f"nothing is missing from {first} to {last}")
    if not all(gap.fixed for gap in gaps):
        Console(stderr=True, highlight=False).print(f"{sum(not gap.fixed for gap in gaps)} not fixed")
        raise typer.Exit(1)
