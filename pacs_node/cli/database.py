"""`db migrate`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from pacs_node.cli.context import of, print_json


def migrate(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Bring the journal to this version's schema, forward only; makes one where there is none.

    Every command does so by itself; this one lets you do it at a time of your choosing, after a backup.

    Example: pacs-node db migrate
    """
    from pacs_node.journal.database import Database

    database = Database(of(context).settings().database_url)
    before = database.revision
    database.migrate()
    after = database.revision
    if json:
        print_json({"journal": database.name, "from": before, "to": after})
        return
    done = f"from {before} to {after}" if before and before != after else f"at {after}"
    told = done if before != after else f"{done} already"
    Console(highlight=False, markup=False, soft_wrap=True).print(
        f"{database.name}: {told}{'' if before else ', made now'}"
    )
