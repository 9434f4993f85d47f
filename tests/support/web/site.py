"""A running node with its pages, phantom studies of each kind, and users who may log in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom.dataset import FileDataset

from pacs_node.config import Settings, load
from pacs_node.demo.pacs import Address, StandIn
from pacs_node.journal import audit, processes, sessions, views
from pacs_node.journal.database import Database, open_database
from pacs_node.records import AuditEvent
from pacs_node.web.users import Role, Users
from support import phantom

WaitUntil = Callable[[Callable[[], object], float], None]

ROLES = ("viewer", "radiologist", "admin")
NAMES = {
    "POSITIVE": "MÜLLER^ANNA",
    "NEGATIVE": "O'HARA^<b>MARY</b>",
    "LEFT": "YAMADA^TAROU",
    "BROKEN": "DOE^JANE",
    "SKIPPED": "DOE^JOHN",
}
"""The studies: what becomes of each, and its patient, whose ID is `ID-` and the key."""
CONFIG = """[node]
ae_title = "{node.ae_title}"
host = "{node.host}"
port = {node.port}

[storage]
min_free_gb = 0

[[peers]]
name = "pacs"
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"

[[destinations]]
name = "pacs"
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}

[[destinations]]
name = "archive"
kind = "stow"
url = "http://127.0.0.1:{closed}/dicom-web"
username = "node"
password = "secret-of-the-archive"
outcomes = ["FAILED"]
max_attempts = 2

[study]
quiet_seconds = 0.5

[model]
threshold = 0.26

[web]
port = 0
{web}
"""


def password(name: str) -> str:
    """The password of the user with this name."""
    return f"the password of {name}"


def images(kind: str, seed: int, number: int = 2) -> list[FileDataset]:
    """The images of a study of one kind of `NAMES`, different for each seed."""
    side = "L" if kind == "LEFT" else "R"
    header = replace(
        phantom.phantom_study(seed, side),  # type: ignore[arg-type]
        patient_id=f"ID-{kind}",
        patient_name=NAMES[kind],
    )
    made = []
    for view in ("PA", "LL")[:number]:
        image = phantom.dataset(
            seed,
            fractured=kind == "POSITIVE",
            rows=640,
            columns=512,
            view=view,  # type: ignore[arg-type]
            laterality=side,  # type: ignore[arg-type]
            kind="CR" if kind == "LEFT" else "DX",
            study=header,
        )
        if not header.patient_name.isascii():
            image.SpecificCharacterSet = "ISO_IR 192"
        if kind == "BROKEN":
            image.Rows *= 2
        if kind == "SKIPPED":
            image.ImageType = ["DERIVED", "SECONDARY"]
        made.append(image)
    return made


@dataclass
class Site:
    """One running node: the address of its pages, its journal, and the PACS that it answers."""

    url: str
    folder: Path
    settings: Settings
    database: Database
    pacs: StandIn
    studies: dict[str, str] = field(default_factory=dict)
    """Study Instance UID by kind."""

    def send(self, datasets: Sequence[FileDataset]) -> str:
        """Forward images to the node, in the background; returns their Study Instance UID."""
        paths = [self.folder / f"{item.SOPInstanceUID}.dcm" for item in datasets]
        for path, item in zip(paths, datasets, strict=True):
            item.save_as(path, enforce_file_format=True)
        self.pacs.upload(paths)
        return str(datasets[0].StudyInstanceUID)

    def state(self, study_instance_uid: str) -> str:
        """The visible state of a study; empty while the study is unknown."""
        study = views.study(self.database, study_instance_uid)
        return str(study["state"]) if study else ""

    def events(self, name: str) -> list[AuditEvent]:
        """The audit events of this name, oldest first."""
        return [item for item in audit.events(self.database) if item.event == name]

    def end_sessions(self, name: str) -> None:
        """End a user's sessions, as a new password does."""
        sessions.end_all(self.database, name, "test")

    def run(self, *arguments: str) -> str:
        """The output of a command with this node's configuration."""
        command = [sys.executable, "-m", "pacs_node", "--config", str(self.folder / "config.toml")]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout


@contextmanager
def running_site(
    folder: Path,
    ports: tuple[int, int],
    wait_until: Callable[[Callable[[], object], float], None],
    web: str = "",
) -> Iterator[Site]:
    """Start a node and a PACS, send the studies of `NAMES`, and wait until each is answered.

    `ports`: of the node, and one on which nobody listens. `web` is added to `[web]`.
    """
    address = Address("PACSNODE", "127.0.0.1", ports[0])
    pacs = StandIn(folder / "pacs", address, ae_title="PACS")
    pacs.start()
    config = folder / "config.toml"
    config.write_text(
        CONFIG.format(node=address, pacs=pacs.address, closed=ports[1], web=web), encoding="utf-8"
    )
    settings = load(config)
    users = Users(settings.web.users)
    for name in ROLES:
        users.set(name, Role(name), password(name))
    database = open_database(settings.database_url)
    with (folder / "node.log").open("wb") as log:
        command = [sys.executable, "-m", "support.web.brightness_node", str(config)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: not processes.missing(processes.running(database)) and _address(database), 120)
        site = Site(_address(database), folder, settings, database, pacs)
        for seed, kind in enumerate(NAMES, start=1):
            site.studies[kind] = site.send(images(kind, {1: 2, 2: 1}.get(seed, seed)))
        ended = {"DELIVERED", "SKIPPED", "QUARANTINED"}
        wait_until(lambda: all(site.state(uid) in ended for uid in site.studies.values()), 120)
        yield site
    finally:
        process.terminate()
        process.wait(60)
        pacs.stop()
        database.close()


def _address(database: Database) -> str:
    return next(
        (item.address for item in processes.running(database) if item.role == "web" and item.ready), ""
    )
