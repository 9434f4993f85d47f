"""One run of the fault harness: a node whose processes keep dying, senders, a moody PACS, and the invariants.

All choices follow from the seed: which process dies where, what is sent how, what the PACS does. Only the
timing of threads and processes is the machine's.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from pacs_node.config import Settings, load
from pacs_node.files import FileStore
from pacs_node.journal.database import Database, open_database
from pacs_node.journal.schema import DeliveryRow, InstanceRow, StudyRow
from pacs_node.records import DeliveryState, InstanceState, StudyState
from support.faults.doomed_role import ROLES
from support.faults.invariants import Figures, Invariants
from support.faults.killer import Killer, Processes
from support.faults.pacs import OrthancPacs, ScriptedPacs
from support.faults.senders import Senders

SETTLE_SECONDS = 60.0
NODE = """
[node]
ae_title = "FAULTY"
host = "127.0.0.1"
port = {port}
[storage]
database = "{database}"
min_free_gb = 0
[study]
quiet_seconds = 0.3
[[destinations]]
name = "pacs"
ae_title = "{pacs}"
host = "127.0.0.1"
port = {pacs_port}
[log]
level = "warning"
"""


def run(
    folder: Path,
    seed: str,
    kills: int,
    database: str = "",
    machines: int = 1,
    pacs: ScriptedPacs | OrthancPacs | None = None,
    progress: Callable[[Figures], None] = lambda figures: None,
) -> Figures:
    """Kill and stall processes of a node `kills` times, wait until it is idle, and check the invariants.

    Each of the `machines` has all roles and a port of its own; they share the database and the folder.
    `progress` is called now and then with the figures so far.
    """
    begin = time.monotonic()
    pacs = pacs or ScriptedPacs(free_port(), seed)
    images = folder / "images"
    images.mkdir(parents=True)
    ports = [free_port() for _ in range(machines)]
    configs = [
        write_config(folder, number, port, database, pacs.ae_title, pacs.port)
        for number, port in enumerate(ports)
    ]
    settings = load(configs[0])
    figures = Figures(seed)
    enough = threading.Event()
    journal = open_database(settings.database_url)
    senders = Senders(ports, images, seed, enough, journal)
    processes = Processes(folder)
    # Of what can be claimed there are two everywhere: who stalls must find that the other took over.
    crew = tuple(ROLES) if machines > 1 else (*ROLES, "worker", "deliver")
    killer = Killer(processes, configs, seed, crew)
    weather = random.Random(f"{seed} weather")
    changes_at = begin
    pacs.start()
    senders.start()
    try:
        while killer.kills.total() < kills or killer.stalls.total() < kills // 10:
            killer.step(deadly=True)
            figures.kills = killer.kills.total()
            # As many as a node that keeps dying can cope with.
            senders.allowed = 4 + figures.kills
            if isinstance(pacs, ScriptedPacs) and time.monotonic() > changes_at:
                changes_at = time.monotonic() + _change(pacs, weather)
            progress(figures)
            time.sleep(0.01)
        pacs.calm()
        killer.replace_all()
        enough.set()
        senders.join()
        come_to_rest(figures, killer, senders, pacs, settings)
    finally:
        enough.set()
        processes.close()
        pacs.stop()
        journal.close()
    figures.seconds = round(time.monotonic() - begin, 1)
    return figures


def come_to_rest(
    figures: Figures, killer: Killer, senders: Senders, pacs: ScriptedPacs | OrthancPacs, settings: Settings
) -> None:
    """Wait until nothing is left to do, stop the processes and check the invariants."""
    with closing(Database(settings.database_url)) as journal:
        before, since = dict[str, int](), time.monotonic()
        while left := unfinished(journal, settings.storage.path):
            killer.step(deadly=False)
            if left != before:
                before, since = left, time.monotonic()
            if time.monotonic() > since + SETTLE_SECONDS:
                figures.violations.append(f"nothing moved for {SETTLE_SECONDS:.0f} s: {left}")
                break
            time.sleep(0.1)
        killer.stop()
        figures.kills, figures.by_point = killer.kills.total(), dict(sorted(killer.kills.items()))
        figures.stalls = dict(sorted(killer.stalls.items()))
        figures.violations += killer.errors
        figures.refused, figures.moods = dict(senders.failures), dict(pacs.moods)
        Invariants(figures, journal, FileStore(settings.storage.path), senders.images, pacs).all()


def write_config(folder: Path, number: int, port: int, database: str, ae_title: str, pacs_port: int) -> Path:
    """The configuration of one machine of the node; all share `folder / "storage"`."""
    config = folder / f"machine-{number}.toml"
    text = NODE.format(port=port, database=database, pacs=ae_title, pacs_port=pacs_port)
    config.write_text(text, encoding="utf-8")
    return config


def _change(pacs: ScriptedPacs, weather: random.Random) -> float:
    """Take the PACS down or up again; the seconds until the next change."""
    if weather.random() < 0.3:
        pacs.stop()
        return weather.uniform(0.2, 1.0)
    pacs.stop()
    pacs.start()
    return weather.uniform(1.0, 4.0)


def unfinished(journal: Database, storage: Path) -> dict[str, int]:
    """The work that is left; empty when the node is idle."""
    left: dict[str, int] = {"spooled": len(list((storage / "spool" / "new").iterdir()))}
    todo = (
        (InstanceRow, InstanceState.RECEIVED),
        (StudyRow, StudyState.OPEN),
        (DeliveryRow, DeliveryState.PENDING),
    )
    with journal.read() as connection:
        for row, state in todo:
            count = sa.select(sa.func.count()).select_from(row).where(row.state == state)
            left[row.__tablename__] = connection.execute(count).scalar_one()
    return {what: count for what, count in left.items() if count}


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
