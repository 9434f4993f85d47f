"""The speed of receiving images: C-STORE to the node, to dcmtk's storescp and to Orthanc.

One sender (dcmsend), one association, one disk; the servers take turns, so that whatever else the machine
does hits all of them. The node answers when an image is durable; storescp leaves that to the system.
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
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from pacs_node.config import load
from pacs_node.demo.pacs import Address, Orthanc, find_orthanc
from pacs_node.dicom.header import StudyHeader, derive_uid, image_object
from pacs_node.errors import PacsNodeError
from pacs_node.journal import processes, views
from pacs_node.journal.database import open_database

PDU = 131072
"""The largest that dcmtk sends; its default of 16384 costs every server speed."""
# Debian's dcmtk leaves Nagle's algorithm on: every answer of storescp then waits 40 ms for a delayed ACK.
DCMTK = {**os.environ, "TCP_NODELAY": "1"}
WORKLOADS = {"10 MB": (100, 2500, 2000), "100 KB": (1000, 250, 200)}
"""Images, rows, columns; 16 bits allocated."""
Server = tuple[Address, Callable[[], int]]
"""Where a storage SCP listens, and how many images it holds by now."""


def write_images(folder: Path, count: int, rows: int, columns: int) -> int:
    """Write CR images of noise, uncompressed, four to a study; returns their total size in bytes."""
    noise = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        study = StudyHeader(derive_uid("bench", rows, number // 4), f"BENCH-{number // 4:06d}")
        image = image_object(
            noise.integers(0, 4096, (rows, columns), np.uint16),
            study,
            derive_uid("bench", rows, "image", number),
            kind="CR",
            photometric="MONOCHROME2",
            bits_stored=12,
            window=(2048, 4096),
        )
        image.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)
    return sum(file.stat().st_size for file in folder.iterdir())


@contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[None]:
    """A process that ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=DCMTK, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def wait(condition: Callable[[], object], what: str, seconds: float = 240) -> None:
    """Return once `condition` holds. Raises PacsNodeError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise PacsNodeError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.01)


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def node(folder: Path) -> Iterator[Server]:
    """The node's `receive` role, with its own defaults."""
    configuration, address = folder / "config.toml", Address("PACSNODE", "127.0.0.1", free_port())
    configuration.write_text(f'[node]\nhost = "{address.host}"\nport = {address.port}\n', encoding="utf-8")
    command = [sys.executable, "-m", "pacs_node", "--config", str(configuration), "receive"]
    journal = open_database(load(configuration).database_url)
    with closing(journal), started(command, folder / "log"):
        wait(lambda: any(role.ready for role in processes.running(journal)), "the node's start")
        yield address, lambda: sum(views.counts(journal)["instances"].values())


@contextmanager
def storescp(folder: Path) -> Iterator[Server]:
    """dcmtk's storescp, writing to a folder."""
    files, port = folder / "files", free_port()
    files.mkdir()

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with started(["storescp", "-q", "-pdu", str(PDU), "-od", str(files), str(port)], folder / "log"):
        wait(listens, "storescp's start")
        yield Address("STORESCP", "127.0.0.1", port), lambda: len(list(files.iterdir()))


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Orthanc with its own defaults (it syncs each file), forwarding nothing."""
    server = Orthanc(
        folder,
        Address("NOBODY", "127.0.0.1", 104),
        command=["env", "TCP_NODELAY=1", str(find_orthanc())],
        ports=(free_port(), free_port()),
        settings={"LuaScripts": [], "DicomAlwaysAllowStore": True, "MaximumPduLength": PDU},
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    """Orthanc, which counts its images itself."""
    with running_orthanc(folder) as server:
        yield server.address, lambda: int(server.rest.get("/statistics")["CountInstances"])


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "pacs-node": node,
    **({"storescp": storescp} if shutil.which("storescp") else {}),
    **({"Orthanc": orthanc} if find_orthanc() else {}),
}


def send(images: Path, to: Address) -> None:
    """C-STORE all images of a folder over one association, in the transfer syntax that they have."""
    command = ["dcmsend", "-q", "-dn", "-nuc", "--max-send-pdu", str(PDU), "-aec", to.ae_title, to.host]
    subprocess.run([*command, str(to.port), "+sd", str(images)], env=DCMTK, check=True)


def transfer(name: str, images: Path, count: int, folder: Path) -> tuple[float, float]:
    """Send to a new server; seconds until the last answer, and until it counts all images.

    Raises PacsNodeError where some are missing.
    """
    folder.mkdir()
    with SERVERS[name](folder) as (address, held):
        os.sync()
        start = time.monotonic()
        send(images, address)
        answered = time.monotonic() - start
        wait(lambda: held() >= count, f"{name} to hold {count} images")
        counted = time.monotonic() - start
    shutil.rmtree(folder)
    return answered, counted


def main(
    repeat: Annotated[int, typer.Option(min=1, help="Transfers to each server; medians are shown.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="3 images of each size, once: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every transfer as JSON.")] = False,
    scratch: Annotated[Path | None, typer.Option(help="Folder on the disk to measure.")] = None,
) -> None:
    """Compare how fast the node, storescp and Orthanc receive images."""
    shown = Table("images", "server", "s", "range", "MB/s", "images/s", "s / node's", "all in its journal")
    every = []
    with tempfile.TemporaryDirectory(prefix="pacs-node-bench-", dir=scratch) as name:
        for work, (full, rows, columns) in WORKLOADS.items():
            images, count = Path(name) / work, 3 if quick else full
            megabytes = write_images(images, count, rows, columns) / 1e6
            runs: dict[str, list[tuple[float, float]]] = {server: [] for server in SERVERS}
            for _ in range(1 if quick else repeat):
                for server, times in runs.items():
                    times.append(transfer(server, images, count, Path(name) / "server"))
            shutil.rmtree(images)
            middle = {server: statistics.median(answered for answered, _ in runs[server]) for server in runs}
            for server, times in runs.items():
                least, most = min(times)[0], max(times)[0]
                seconds, counted = middle[server], statistics.median(counted for _, counted in times)
                cells = (seconds, megabytes / seconds, count / seconds, seconds / middle["pacs-node"])
                took, speed, rate, ratio = (f"{cell:.{2 if cell < 10 else 0}f}" for cell in cells)
                kept = f"{counted:.2f} s, {count / counted:.0f}/s" if server == "pacs-node" else ""
                span = f"{least:.2f} to {most:.2f}"
                shown.add_row(f"{count} x {work}", server, took, span, speed, rate, ratio, kept)
                every.append({"images": work, "count": count, "server": server, "seconds": times})
    if as_json:
        print(json.dumps(every, indent=2))
    else:
        Console(width=110).print(shown)


if __name__ == "__main__":
    typer.run(main)
