"""The journal under a backlog of 20,000 instances in 10,000 studies, compared with a journal of 100 studies.

Times the queries of workers, deliverers and people on SQLite and, with `--postgresql URL` of an empty
database, on PostgreSQL. Each stage works off a part of the backlog, so that claims meet rows in realistic
states.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydicom.sr.coding import Code
from rich.console import Console
from rich.table import Table

from pacs_node.config import Destination, Settings
from pacs_node.files import FileStore
from pacs_node.heatmap import HeatMap
from pacs_node.journal import audit, deliveries, instances, processes, queue, studies, views
from pacs_node.journal.database import Database, open_database
from pacs_node.operate.metrics import NodeMetrics
from pacs_node.records import (
    Analysis,
    Arrival,
    DeliveryState,
    Finding,
    Instance,
    ModelIdentity,
    Outcome,
    Result,
    ResultRole,
    RunningRole,
    Study,
)

SMALL = 100
IMAGES = 2
BATCH = 100
MODEL = ModelIdentity(
    id="benchmark",
    name="benchmark",
    version="1",
    sha256="0" * 64,
    threshold=0.5,
    finding=Code("125605004", "SCT", "Fracture of bone"),
    positive_phrase="",
    negative_phrase="",
    negative_caveat="",
)
SETTINGS = Settings(destinations=(Destination(name="pacs", ae_title="PACS", host="127.0.0.1"),))
FINDING = Finding(
    "0" * 64, 0.1234, False, HeatMap(np.zeros((10, 10), np.float32), (0.0, 0.0), (32.0, 32.0)), ()
)


def arrivals(study: int) -> list[Arrival]:
    """The images of one study."""
    return [
        Arrival(
            sha256=f"{study:032x}{image:032x}",
            size=10_000_000,
            received_at=time.time(),
            calling_ae_title="PACS",
            called_ae_title="PACSNODE",
            address="127.0.0.1",
            study_instance_uid=f"2.25.{study}",
            series_instance_uid=f"2.25.{study}.1",
            sop_instance_uid=f"2.25.{study}.1.{image}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality="DX",
            patient_id=f"P{study}",
            skip_reason=None,
        )
        for image in range(IMAGES)
    ]


class Measured:
    """The durations of each operation on one journal."""

    def __init__(self, url: str, folder: Path, count: int, times: int) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.rss_mb: dict[str, float] = {}
        self._url = url
        self._folder = folder
        self._count = count
        self._times = times

    def run(self) -> None:
        """Fill the journal and work off a part of it, measuring."""
        with closing(open_database(self._url)) as database:
            for first in range(0, self._count, BATCH // IMAGES):
                batch = range(first, min(first + BATCH // IMAGES, self._count))
                self._time("register 100", partial(self._register, database, batch))
            self._asked(database, "received")
            self._time("claim a study (none can be)", lambda: studies.claim_study(database), self._times)
            self._restart(lambda db: instances.claim_instances(db, 8))
            for _ in range(self._times):
                claim = self._time("claim 8 instances", lambda: instances.claim_instances(database, 8))
                self._time("finish 8 instances", partial(_analyze, database, claim))
            while claim := instances.claim_instances(database, 1000):
                _analyze(database, claim)
            self._asked(database, "analyzed")
            for _ in range(self._times):
                study = self._time("claim a study", lambda: studies.claim_study(database))
                self._time("finish a study", partial(_report, database, study))
            while study := studies.claim_study(database):
                _report(database, study)
            self._asked(database, "reported")
            for _ in range(self._times):
                out = self._time(
                    "claim deliveries", lambda: deliveries.claim_deliveries(database, "pacs", 50)
                )
                for item in out.items:
                    self._time(
                        "finish a delivery",
                        partial(
                            deliveries.finish_delivery, database, out.token, item, DeliveryState.SENT, 0, ""
                        ),
                    )
            self._restart(lambda db: deliveries.claim_deliveries(db, "pacs", 50))
            self._time("audit verify", lambda: audit.verify(database))

    def _register(self, database: Database, batch: range) -> None:
        instances.register(database, [arrival for study in batch for arrival in arrivals(study)], 0.0)

    def _asked(self, database: Database, stage: str) -> None:
        """Time the queries of people and heartbeats."""
        running = RunningRole("worker", "here", 1, "", ready=True)

        def heartbeat() -> None:
            processes.beat(database, running)
            queue.renew(database, ["no such token"])

        asked: dict[str, Callable[[], object]] = {
            "heartbeat": heartbeat,
            "status": lambda: (processes.running(database), views.counts(database)),
            "studies": lambda: views.studies(database, 50),
            "show": lambda: (views.study(database, "2.25.7"), list(audit.events(database, "2.25.7"))),
        }
        for name, ask in asked.items():
            self._time(f"{name} ({stage})", ask, self._times)
        metrics = NodeMetrics(SETTINGS, database, FileStore(self._folder))
        self._time(f"metrics, first scrape ({stage})", metrics.scrape)
        self._time(f"metrics ({stage})", metrics.scrape, self._times)
        self.rss_mb[stage] = _rss_mb()

    def _restart(self, first: Callable[[Database], object]) -> None:
        """Time the start of a process, from the connection to its first claim."""

        def restart() -> None:
            with closing(open_database(self._url)) as database:
                database.identity("PACSNODE")
                first(database)

        self._time("restart to the first claim", restart, self._times)

    def _time(self, name: str, do: Callable[[], Any], times: int = 1) -> Any:
        for _ in range(times):
            before = time.perf_counter()
            done = do()
            self.seconds.setdefault(name, []).append(time.perf_counter() - before)
        return done


def _analyze(database: Database, claim: queue.Claim[Instance]) -> None:
    analyses = [Analysis(instance, FINDING) for instance in claim.items]
    instances.finish_instances(database, claim.token, MODEL, analyses)


def _report(database: Database, claim: queue.Claim[Study]) -> None:
    (study,) = claim.items
    roles = (ResultRole.SC,) * IMAGES + (ResultRole.SR,)
    results = tuple(
        Result(role, f"2.25.{study.id}.2.{n}", "1.2.840.10008", f"2.25.{study.id}.2", "0" * 64, 9, None)
        for n, role in enumerate(roles)
    )
    report = studies.StudyReport(
        study.revision, "0" * 64, MODEL, Outcome.NEGATIVE, "no fracture suspected", time.time(), results
    )
    studies.finish_report(database, claim.token, study, report, dict.fromkeys(("SC", "SR"), ("pacs",)))


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def compare(name: str, urls: tuple[str, str], folder: Path, count: int, times: int) -> list[dict[str, Any]]:
    """Rows of the times for a small journal and one of `count` studies, and the ratio of the medians."""
    sizes = zip(urls, (SMALL, count), strict=True)
    small, large = (Measured(url, folder, size, times) for url, size in sizes)
    small.run()
    large.run()
    rows = []
    for what, seconds in large.seconds.items():
        ms = [1000 * statistics.median(taken) for taken in (small.seconds[what], seconds)]
        worst = 1000 * max(seconds)
        values = {"small_ms": ms[0], "large_ms": ms[1], "worst_ms": worst, "ratio": ms[1] / ms[0]}
        rows.append({"database": name, "what": what, **{k: round(v, 2) for k, v in values.items()}})
    grown = large.rss_mb["reported"] - large.rss_mb["received"]
    rows.append({"database": name, "what": "memory (MB)", "large": large.rss_mb, "grown": round(grown, 1)})
    return rows


def main(
    postgresql: Annotated[
        list[str] | None, typer.Option(help="URLs of two empty PostgreSQL databases, for both sizes.")
    ] = None,
    studies_: Annotated[int, typer.Option("--studies", min=SMALL, help="Studies of the large one.")] = 10_000,
    quick: Annotated[bool, typer.Option(help="Only see that it runs.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a journal with a backlog against a small one."""
    count, times = (200, 3) if quick else (studies_, 10)
    with tempfile.TemporaryDirectory() as folder:
        urls = (f"sqlite:///{folder}/small.sqlite", f"sqlite:///{folder}/large.sqlite")
        rows = compare("sqlite", urls, Path(folder), count, times)
        if postgresql:
            small, large = postgresql
            rows += compare("postgresql", (small, large), Path(folder), count, times)
    if json_:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*("database", "what", "100 studies, ms", f"{count} studies, ms", "worst, ms", "ratio"))
    for row in rows:
        if "ratio" in row:
            cells = (row["small_ms"], row["large_ms"], row["worst_ms"], row["ratio"])
            table.add_row(row["database"], row["what"], *(f"{cell:.1f}" for cell in cells))
        else:
            table.add_row(row["database"], row["what"], "", str(row["large"]), "", f"grew {row['grown']}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
