"""The long form of the fault harness: a thousand kills, and stalls, then a check for losses.

Every round starts an empty node with a seed of its own, kills, lets it come to rest and checks the promise;
see tests/support/faults/run.py. A violation ends the run with code 1 and names the seed, with which
`--seed SEED --rounds 1` repeats it.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.faults.doomed_role import POINTS
from support.faults.invariants import Figures
from support.faults.run import run


def main(
    kills: Annotated[int, typer.Option(min=1, help="Kills in all.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Nodes among which they are divided.")] = 20,
    seed: Annotated[str, typer.Option(help="What is chosen follows from it.")] = "0",
    database: Annotated[str, typer.Option(help="URL of an empty PostgreSQL database, for one round.")] = "",
    machines: Annotated[int, typer.Option(min=1, help="Each with all roles; more need PostgreSQL.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print each round as JSON.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folder of a failing round.")] = False,
) -> None:
    """Kill, wait until the node is idle, check the invariants, and print the figures."""
    if database and rounds > 1:
        raise typer.BadParameter("a database can be used for one round only: --rounds 1")
    # What pynetdicom says of connections that break is what this is about.
    logging.disable(logging.CRITICAL)
    every = []
    for number in range(rounds):
        folder = Path(tempfile.mkdtemp(prefix="pacs-node-faults-"))
        name = seed if rounds == 1 else f"{seed}-{number}"
        figures = run(folder, name, -(-kills // rounds), database, machines)
        every.append(figures)
        if not as_json:
            state = "; ".join(figures.violations[:5]) or "nothing lost, nothing twice"
            done = f"{figures.kills} kills, {sum(figures.stalls.values())} stalls, {figures.amended} amended"
            print(f"seed {name}: {done}, {figures.seconds:.0f} s: {state}", flush=True)
        if figures.violations and keep:
            print(f"see {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    if as_json:
        print(json.dumps([figures.as_json() for figures in every], indent=2))
    else:
        show(every)
    raise typer.Exit(1 if any(figures.violations for figures in every) else 0)


def show(every: list[Figures]) -> None:
    """The sums of all rounds as two tables."""
    table = Table("", "sum", show_edge=False)
    for name in ("kills", "studies", "images", "acknowledged", "reports", "amended", "results"):
        table.add_row(name, str(sum(getattr(figures, name) for figures in every)))
    for name in ("sendings", "repeats", "orphans"):
        table.add_row(name, str(sum(getattr(figures, name) for figures in every)))
    table.add_row("violations", str(sum(len(figures.violations) for figures in every)))
    points: Counter[str] = Counter()
    stalls: Counter[str] = Counter()
    moods: Counter[str] = Counter()
    for figures in every:
        points.update(figures.by_point)
        stalls.update(figures.stalls)
        moods.update(figures.moods)
    console = Console(width=110)
    console.print(table)
    console.print(", ".join(f"{point} {count}" for point, count in sorted(points.items())))
    every_point = {f"{when} {point}" for point in POINTS for when in ("before", "after")}
    console.print(f"points at which nothing died: {', '.join(sorted(every_point - set(points))) or 'none'}")
    listing = ", ".join(f"{point} {count}" for point, count in sorted(stalls.items()))
    console.print(f"stalled for longer than their leases, before: {listing}")
    console.print("the PACS: " + ", ".join(f"{mood} {count}" for mood, count in sorted(moods.items())))


if __name__ == "__main__":
    typer.run(main)
