"""How fast images come in: C-STORE to the node, to dcmtk's storescp and to Orthanc.

One sender (dcmsend), one association, one disk; the servers take turns, so that whatever else the machine
does hits all of them. The node answers when an image is durable; storescp leaves that to the system.

    python benchmarks/ingest.py [--quick] [--json]
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from pacs_node.config import load
from pacs_node.demo.header import StudyHeader, derive_uid, image_object
from pacs_node.demo.pacs import Address, Orthanc, find_orthanc
from pacs_node.errors import PacsNodeError
from pacs_node.journal import roles, views
from pacs_node.journal.database import open_database

PDU = 131072
"""Largest that dcmtk takes; the default of 16384 costs all of them speed."""
# Debian's dcmtk leaves Nagle's algorithm on: the rest of an image then waits 40 ms for a delayed ACK.
DCMTK = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True, slots=True)
class Workload:
    """So many images of one size, four to a study."""

    name: str
    count: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Server:
    """A running storage SCP; `held` counts what it has taken in."""

    address: Address
    held: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Run:
    """One transfer: seconds until the last answer, and until all images were counted (the node: journal)."""

    workload: str
    server: str
    bytes: int
    images: int
    seconds: float
    registered_seconds: float


WORKLOADS = (Workload("10 MB", 100, 2500, 2000), Workload("100 KB", 1000, 250, 200))


def write_images(work: Workload, folder: Path) -> int:
    """Write uncompressed CR images of noise; returns their bytes together."""
    noise = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(work.count):
        study = StudyHeader(derive_uid("bench", work.name, number // 4), f"BENCH-{number // 4:06d}")
        image_object(
            noise.integers(0, 4096, (work.rows, work.columns), np.uint16),
            study,
            derive_uid("bench", work.name, "image", number),
            kind="CR",
            photometric="MONOCHROME2",
            bits_stored=12,
            window=(2048, 4096),
        ).save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)
    return sum(file.stat().st_size for file in folder.iterdir())


@contextmanager
def started(command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """A process that ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def wait(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Return once `condition` holds. Raises PacsNodeError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise PacsNodeError(f"{what}: not after {seconds:g} s")
        time.sleep(0.01)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def node(folder: Path) -> Iterator[Server]:
    """The node's `receive` role, with its own defaults."""
    configuration, address = folder / "config.toml", Address("PACSNODE", "127.0.0.1", free_port())
    configuration.write_text(f'[node]\nhost = "{address.host}"\nport = {address.port}\n', encoding="utf-8")
    database = open_database(load(configuration).database_url)
    command = [sys.executable, "-m", "pacs_node", "--config", str(configuration), "receive"]
    with started(command, folder / "log"):
        wait(lambda: any(role.ready for role in roles.running(database)), "the node's start")
        yield Server(address, lambda: sum(views.counts(database)["instances"].values()))
    database.close()


@contextmanager
def storescp(folder: Path) -> Iterator[Server]:
    """dcmtk's storescp, writing what it gets to a folder."""
    files, address = folder / "files", Address("STORESCP", "127.0.0.1", free_port())
    files.mkdir()
    command = ["storescp", "-q", "-pdu", str(PDU), "-od", str(files), str(address.port)]
    with started(command, folder / "log", DCMTK):
        wait(lambda: listens(address.port), "storescp's start")
        yield Server(address, lambda: len(list(files.iterdir())))


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    """Orthanc with its own defaults (it syncs each file), forwarding nothing."""
    settings = {"LuaScripts": [], "DicomAlwaysAllowStore": True, "MaximumPduLength": PDU}
    program = ["env", "TCP_NODELAY=1", str(find_orthanc())]
    server = Orthanc(
        folder,
        Address("NOBODY", "127.0.0.1", 104),
        command=program,
        ports=(free_port(), free_port()),
        settings=settings,
    )
    server.start()
    try:
        yield Server(server.address, lambda: int(server.rest.get("/statistics")["CountInstances"]))
    finally:
        server.stop()


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "pacs-node": node,
    "storescp": storescp,
    "Orthanc": orthanc,
}


def send(images: Path, to: Address) -> None:
    """C-STORE all images of a folder over one association."""
    command = ["dcmsend", "-q", "-nuc", "--max-send-pdu", str(PDU), "-aec", to.ae_title, to.host]
    subprocess.run([*command, str(to.port), "+sd", str(images)], env=DCMTK, check=True)


def measure(work: Workload, name: str, images: Path, size: int, scratch: Path) -> Run:
    """One transfer to a fresh server. Raises PacsNodeError where an image is missing afterwards."""
    folder = scratch / "server"
    folder.mkdir()
    with SERVERS[name](folder) as server:
        os.sync()
        start = time.monotonic()
        send(images, server.address)
        seconds = time.monotonic() - start
        wait(lambda: server.held() >= work.count, f"{name} to hold {work.count} images")
        registered = time.monotonic() - start
    shutil.rmtree(folder)
    return Run(work.name, name, size, work.count, seconds, registered)


def table(runs: Sequence[Run]) -> Table:
    """Medians, ranges, and each server's time as a multiple of the node's."""
    shown = Table("images", "server", "seconds (range)", "MB/s", "images/s", "x node", "registered")
    for work, name in dict.fromkeys((run.workload, run.server) for run in runs):
        group = [run for run in runs if (run.workload, run.server) == (work, name)]
        ours = [run.seconds for run in runs if (run.workload, run.server) == (work, "pacs-node")]
        seconds = sorted(run.seconds for run in group)
        middle = statistics.median(seconds)
        registered = statistics.median(run.registered_seconds for run in group)
        shown.add_row(
            f"{group[0].images} x {work}",
            name,
            f"{middle:.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})",
            f"{group[0].bytes / 1e6 / middle:.0f}",
            f"{group[0].images / middle:.0f}",
            f"{middle / statistics.median(ours):.2f}",
            f"{registered:.2f} s, {group[0].images / registered:.0f}/s" if name == "pacs-node" else "",
        )
    return shown


def main(
    repeat: Annotated[int, typer.Option(min=1, help="Transfers to each server; medians are shown.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="3 images of each size, once: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every run as JSON.")] = False,
    scratch: Annotated[Path | None, typer.Option(help="Folder on the disk to measure.")] = None,
) -> None:
    """Compare how fast the node, storescp and Orthanc receive images."""
    works = [Workload(w.name, 3, w.rows, w.columns) for w in WORKLOADS] if quick else WORKLOADS
    present = {"storescp": shutil.which("storescp"), "Orthanc": find_orthanc()}
    names = [name for name in SERVERS if present.get(name, "ours")]
    runs = []
    with tempfile.TemporaryDirectory(prefix="pacs-node-bench-", dir=scratch) as folder:
        for work in works:
            images = Path(folder) / work.name
            size = write_images(work, images)
            for turn in range(1 if quick else repeat):
                order = names[turn % len(names) :] + names[: turn % len(names)]
                runs += [measure(work, name, images, size, Path(folder)) for name in order]
            shutil.rmtree(images)
    runs.sort(key=lambda run: ([w.name for w in works].index(run.workload), names.index(run.server)))
    if as_json:
        print(json.dumps([asdict(run) for run in runs], indent=2))
    else:
        Console().print(table(runs))


if __name__ == "__main__":
    typer.run(main)
