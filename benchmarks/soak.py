"""Hours of traffic: do memory, file descriptors and threads of the node's processes stay constant?

Studies at a steady rate, over associations of which some break off; a PACS with moods; TCP probes as load
balancers send them, from a connection that is closed at once to half a PDU; and echo storms. The processes
are the real ones but for the model, which is torch-free. At the end the node comes to rest and its promise
is checked as the fault harness does.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from pynetdicom import AE
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.faults.invariants import Figures
from support.faults.killer import Killer, Processes
from support.faults.pacs import ScriptedPacs
from support.faults.run import come_to_rest, free_port, write_config
from support.faults.senders import Senders

from pacs_node.config import load
from pacs_node.journal.database import open_database

STORM_SECONDS = 60.0
STORM = (8, 50)
"""Associations at once, and C-ECHOs over each."""
PROBES_PER_SECOND = 5
WARM = 0.2
"""The part of the samples at the beginning that a trend is not judged by."""
ALLOWED = {"MB": 8.0, "descriptors": 4.0, "threads": 4.0}
"""What may come over the whole soak, by the straight line through the samples, before it is called growth."""


@dataclass(frozen=True)
class Sample:
    """One measurement of one process."""

    minute: float
    role: str
    mb: float
    descriptors: int
    threads: int


def probe(port: int, dice: random.Random) -> None:
    """Open a connection that never becomes an association."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        kind = dice.choice(("close", "reset", "half a header", "half a PDU", "HTTP", "silent"))
        if kind == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif kind == "half a header":
            connection.sendall(b"\x01\x00\x00")
        elif kind == "half a PDU":
            connection.sendall(b"\x01\x00\x00\x00\x00\xff\x00\x01" + bytes(20))
        elif kind == "HTTP":
            connection.sendall(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
        elif kind == "silent":
            time.sleep(0.5)


def storm(port: int) -> None:
    """Many C-ECHOs over several associations at once."""

    def echo() -> None:
        ae = AE(ae_title="STORM")
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", port)
        for _ in range(STORM[1]):
            if association.is_established:
                association.send_c_echo()
        if association.is_established:
            association.release()

    threads = [threading.Thread(target=echo) for _ in range(STORM[0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def repeat(enough: threading.Event, seconds: float, work: Callable[[], object]) -> threading.Thread:
    """Repeat an action until `enough` is set."""

    def loop() -> None:
        while not enough.wait(seconds):
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    return thread


def verdicts(samples: list[Sample]) -> list[dict[str, object]]:
    """For each process and measure: first, last and highest value, growth, and the verdict."""
    rows: list[dict[str, object]] = []
    for role in dict.fromkeys(sample.role for sample in samples):
        mine = [sample for sample in samples if sample.role == role]
        for measure, values in (
            ("MB", [sample.mb for sample in mine]),
            ("descriptors", [float(sample.descriptors) for sample in mine]),
            ("threads", [float(sample.threads) for sample in mine]),
        ):
            skipped = int(len(mine) * WARM)
            minutes = np.array([sample.minute for sample in mine[skipped:]])
            slope = float(np.polyfit(minutes, values[skipped:], 1)[0]) if len(minutes) > 2 else 0.0
            growth = slope * (mine[-1].minute - mine[skipped].minute)
            rows.append(
                {
                    "role": role,
                    "measure": measure,
                    "first": values[0],
                    "last": values[-1],
                    "peak": max(values),
                    "growth": round(growth, 2),
                    "per_hour": round(slope * 60, 2),
                    "verdict": "growing" if growth > ALLOWED[measure] else "flat",
                }
            )
    return rows


def main(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long; 120 for the figures.")] = 5,
    rate: Annotated[float, typer.Option(min=1, help="Studies a minute, of one or two images.")] = 12,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two samples.")] = 20,
    seed: Annotated[str, typer.Option(help="What is chosen follows from it.")] = "soak",
    database: Annotated[str, typer.Option(help="URL of an empty PostgreSQL database.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print every sample as JSON.")] = False,
) -> None:
    """Run a node under traffic and report whether it grew."""
    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="pacs-node-soak-"))
    images = folder / "images"
    images.mkdir()
    pacs, port, dice = ScriptedPacs(free_port(), seed), free_port(), random.Random(seed)
    config = write_config(folder, 0, port, database, pacs.ae_title, pacs.port)
    figures, samples, enough = Figures(seed), list[Sample](), threading.Event()
    journal = open_database(load(config).database_url)
    senders = Senders([port], images, seed, enough, journal)
    processes = Processes(folder, hurried=False)
    killer = Killer(processes, [config], seed)
    begin = time.monotonic()
    pacs.start()
    try:
        killer.step(deadly=False)
        senders.start()
        load_threads = [
            repeat(enough, 1 / PROBES_PER_SECOND, lambda: probe(port, dice)),
            repeat(enough, min(STORM_SECONDS, minutes * 20), lambda: storm(port)),
        ]
        while (elapsed := time.monotonic() - begin) < minutes * 60:
            killer.step(deadly=False)
            senders.allowed = 1 + int(elapsed * rate / 60)
            if elapsed >= (len(samples) // 4 + 0.5) * every:
                for role, pid in killer.pids.items():
                    process = psutil.Process(pid)
                    with process.oneshot():
                        megabytes = process.memory_info().rss / 1e6
                        counts = process.num_fds(), process.num_threads()
                    samples.append(Sample(round(elapsed / 60, 2), role, round(megabytes, 1), *counts))
                if not as_json:
                    last = samples[-4:]
                    shown = (f"{s.role} {s.mb:.0f} MB {s.descriptors} fd {s.threads} th" for s in last)
                    print(f"{elapsed / 60:6.1f} min: " + "; ".join(shown), flush=True)
            time.sleep(0.2)
        enough.set()
        for thread in load_threads:
            thread.join()
        pacs.calm()
        senders.join()
        come_to_rest(figures, killer, senders, pacs, load(config))
    finally:
        enough.set()
        processes.close()
        pacs.stop()
        journal.close()
    figures.seconds = round(time.monotonic() - begin, 1)
    rows = verdicts(samples)
    if as_json:
        everything = {
            "samples": [asdict(sample) for sample in samples],
            "verdicts": rows,
            "figures": figures.as_json(),
        }
        print(json.dumps(everything, indent=2))
    else:
        table = Table(*rows[0], show_edge=False)
        for row in rows:
            table.add_row(*map(str, row.values()))
        Console(width=110).print(table)
        print(f"{figures.studies} studies, {figures.images} images, {figures.sendings} C-STOREs to the PACS")
        print("; ".join(figures.violations[:10]) or "nothing lost, nothing twice")
    shutil.rmtree(folder)
    raise typer.Exit(1 if figures.violations or any(row["verdict"] == "growing" for row in rows) else 0)


if __name__ == "__main__":
    typer.run(main)
