"""The demo: a PACS forwards X-rays to the node, and the results return to the same studies."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Column, Table

from pacs_node import toml
from pacs_node.config import load
from pacs_node.demo.pacs import Address, Pacs, PacsKind, choose
from pacs_node.dicom import phantom
from pacs_node.dicom.wrap import PICTURES, wrap
from pacs_node.errors import AdmissionError, InputError, PacsNodeError
from pacs_node.journal import processes, views
from pacs_node.journal.database import Database, open_database
from pacs_node.receive.admission import read_header
from pacs_node.report.sr import as_text

READY_SECONDS = 240.0
RESULT_SECONDS = 600.0
STOP_SECONDS = 45.0
QUIET_SECONDS = 3.0
_ENDED = {"DELIVERED", "SKIPPED", "FAILED", "QUARANTINED"}
_PHANTOMS = (
    "These images are phantoms, drawn by a program. They show how results travel; the model's findings in "
    "them say nothing about its quality."
)


@dataclass
class Demo:
    """One run in its own folder, `out`/run-DATE-TIME.

    `inputs` are DICOM, JPEG or PNG files or folders of them; empty means phantoms. Without `keep` the storage
    of the PACS and the node is removed at the end; results and logs stay.
    """

    inputs: Sequence[Path]
    out: Path
    pacs: PacsKind
    keep: bool
    console: Console
    _studies: dict[str, list[Path]] = field(default_factory=dict)
    _times: dict[str, float] = field(default_factory=dict)

    def run(self) -> bool:
        """Do all steps; True if every result arrived. Raises PacsNodeError if a step fails."""
        folder = self.out.resolve() / f"run-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        http, dicom, own = _free_ports(3)
        node = Address("PACSNODE", "127.0.0.1", own)
        server = choose(self.pacs, folder / "pacs", node, (http, dicom))
        with self._step("making the images"):
            images = read(self.inputs) if self.inputs else [*phantom.fractured_right(), *phantom.sound_left()]
            self._studies = save(images, folder)
        try:
            with self._step("starting the PACS"):
                server.start()
            self._say(f"  {server.describe()}")
            configuration = folder / "config.toml"
            configuration.write_text(_configuration(node, server.address), encoding="utf-8")
            with _serving(configuration, folder / "node.log") as process:
                return self._exchange(configuration, process, server, folder)
        finally:
            server.stop()
            if not self.keep:
                shutil.rmtree(folder / "pacs", ignore_errors=True)
                shutil.rmtree(folder / "storage", ignore_errors=True)

    def _exchange(
        self, configuration: Path, process: subprocess.Popen[bytes], server: Pacs, folder: Path
    ) -> bool:
        database = open_database(load(configuration).database_url)
        with closing(database):

            def wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
                deadline = time.monotonic() + seconds
                while not condition():
                    if process.poll() is not None or time.monotonic() > deadline:
                        how = "ended" if process.poll() is not None else f"was not ready after {seconds:g} s"
                        log = (folder / "node.log").read_text(errors="replace")[-2000:]
                        raise PacsNodeError(f"the node {how} while {what}; the end of its log:\n{log}")
                    time.sleep(0.1)

            with self._step("starting the node"):
                wait(lambda: not processes.missing(processes.running(database)), READY_SECONDS, "starting")
            with self._step("uploading the images into the PACS"):
                server.upload(path for paths in self._studies.values() for path in paths)
            with self._step("waiting for the PACS to forward them and for the results"):
                wait(lambda: self._all_ended(database), RESULT_SECONDS, "waiting for the results")
            studies = {uid: _show(configuration, uid) for uid in self._studies}
        results = {uid: server.results(uid) for uid in self._studies}
        if not self.inputs:
            self.console.print(f"\n[bold]{_PHANTOMS}[/bold]")
        complete = [
            self._print_study(uid, studies[uid], results[uid], folder / "results") for uid in self._studies
        ]
        table = Table("stage", "seconds", title="times", show_edge=False)
        for name, seconds in self._times.items():
            table.add_row(name, f"{seconds:.1f}")
        self.console.print(table)
        reported = any(study["reports"] for study in studies.values())
        self._say(f"\nResults, audit trails and logs: {folder}")
        return all(complete) and reported

    def _all_ended(self, database: Database) -> bool:
        rows = {row["study_instance_uid"]: row for row in views.studies(database, len(self._studies) + 1)}
        return all(
            uid in rows and rows[uid]["state"] in _ENDED and rows[uid]["objects"] >= len(paths)
            for uid, paths in self._studies.items()
        )

    def _print_study(self, uid: str, study: dict[str, Any], results: list[Dataset], folder: Path) -> bool:
        """Print and write the results of one study; False if anything failed or is missing."""
        out = folder / uid
        out.mkdir(parents=True)
        (out / "study.json").write_text(json.dumps(study, indent=2, ensure_ascii=False), encoding="utf-8")
        self.console.rule(f"study {uid}: {study['state']}", characters="-")
        if study["reason"]:
            self._say(study["reason"])
        for result in results:
            name = f"{result.Modality}-{result.SOPInstanceUID}"
            result.save_as(out / f"{name}.dcm", enforce_file_format=True)
            if "PixelData" in result:
                Image.fromarray(result.pixel_array).save(out / f"{name}.png")
                self._say(f"heat map: {out / name}.png")
            else:
                (out / f"{name}.txt").write_text(as_text(result) + "\n", encoding="utf-8")
                self._say(as_text(result))
        self.console.print(_audit_table(study["events"]))
        self._say(_pace(study))
        states = Counter(image["state"] for image in study["instances"])
        expected = {(result["role"], result["sop_instance_uid"]) for result in study["results"]}
        arrived = {(("SC" if "PixelData" in item else "SR"), str(item.SOPInstanceUID)) for item in results}
        roles = Counter(role for role, _ in expected)
        problems = []
        if study["state"] in ("FAILED", "QUARANTINED") or states["FAILED"]:
            problems.append(f"the study is {study['state']}, {states['FAILED']} images failed")
        if states["ANALYZED"] and (not roles["SR"] or roles["SC"] < states["ANALYZED"]):
            problems.append(f"{states['ANALYZED']} images were analyzed, results: {dict(roles)}")
        if expected != arrived:
            problems.append(f"the PACS holds {len(arrived)} of the {len(expected)} results")
        for problem in problems:
            self.console.print(f"[bold red]failed:[/bold red] {problem}")
        return not problems

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        with self.console.status(name):
            yield
        self._times[name] = time.monotonic() - start
        self._say(f"{name}: {self._times[name]:.1f} s")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def read(inputs: Sequence[Path]) -> Iterator[Dataset]:
    """DICOM files as they are, JPEG and PNG files wrapped as DX; folders are searched.

    Raises InputError naming a file of another kind.
    """
    found = [file for path in inputs for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    for path in (file for file in found if file.is_file()):
        if path.suffix.lower() in PICTURES:
            yield wrap(path)
            continue
        try:
            # The node's own admission check, so that a file it would refuse is named here.
            read_header(path)
            yield dcmread(path)
        except AdmissionError as error:
            raise InputError(f"{path}: neither a JPEG or PNG file nor usable DICOM: {error}") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def save(images: Iterable[Dataset], folder: Path) -> dict[str, list[Path]]:
    """Write each image once under `folder`/images; their paths by Study Instance UID.

    Raises InputError if there is none.
    """
    (folder / "images").mkdir(parents=True)
    studies: dict[str, dict[str, Path]] = {}
    for number, image in enumerate(images, start=1):
        study = studies.setdefault(str(image.StudyInstanceUID), {})
        path = study.setdefault(str(image.SOPInstanceUID), folder / "images" / f"{number:04d}.dcm")
        image.save_as(path, enforce_file_format=True)
    if not studies:
        raise InputError("no image was given")
    return {uid: list(paths.values()) for uid, paths in studies.items()}


@contextmanager
def _serving(configuration: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `pacs-node serve` inside the block; SIGTERM ends it."""
    command = [sys.executable, "-m", "pacs_node", "--config", str(configuration), "serve"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _show(configuration: Path, uid: str) -> dict[str, Any]:
    """The output of `pacs-node show STUDY --json`."""
    command = [sys.executable, "-m", "pacs_node", "--config", str(configuration), "show", uid, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise PacsNodeError(f"`pacs-node show {uid}` failed: {done.stderr.strip()[-500:]}")
    study: dict[str, Any] = json.loads(done.stdout)
    return study


def _audit_table(events: Sequence[dict[str, Any]]) -> Table:
    columns = ("seq", "time", "event", Column("object", overflow="fold"))
    table = Table(*columns, title="audit trail", show_edge=False)
    for event in events:
        at = datetime.fromtimestamp(event["at"]).astimezone().time().isoformat(timespec="milliseconds")
        table.add_row(str(event["seq"]), at, event["event"], event["sop_instance_uid"] or "")
    return table


def _pace(study: dict[str, Any]) -> str:
    """The study's milestones in seconds after its first image."""
    start = study["first_received_at"]
    moments = {
        "last image received": [study["last_received_at"]],
        "analyzed": [image["analyzed_at"] for image in study["instances"]],
        f"reported (quiet period {QUIET_SECONDS:g} s)": [report["created_at"] for report in study["reports"]],
        "back in the PACS": [result["sent_at"] for result in study["results"]],
    }
    reached = [(what, max(at - start for at in times if at)) for what, times in moments.items() if any(times)]
    return "after the first image: " + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in reached)


def _configuration(node: Address, pacs: Address) -> str:
    """The node's config.toml, on loopback, with the PACS as its only peer and destination."""
    peer = {"name": "pacs", "ae_title": pacs.ae_title, "host": pacs.host}
    return toml.dump(
        {
            "node": {"ae_title": node.ae_title, "host": node.host, "port": node.port},
            "storage": {"path": "storage", "min_free_gb": 0.2},
            "peers": [{**peer, "reply_to": ["pacs"]}],
            "destinations": [{**peer, "port": pacs.port}],
            "study": {"quiet_seconds": QUIET_SECONDS},
            "web": {"enabled": False},
        }
    )


def _free_ports(count: int) -> tuple[int, ...]:
    """Distinct free ports of 127.0.0.1."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)
    finally:
        for probe in probes:
            probe.close()
