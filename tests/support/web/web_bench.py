"""The pages on a bench: a journal, a file store and a worker in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from pacs_node.analyze import decode, pixels
from pacs_node.config import load
from pacs_node.dicom.header import Side
from pacs_node.journal import sessions
from pacs_node.journal.database import open_database
from pacs_node.web import access, app
from pacs_node.web.users import Role, Users
from support import phantom
from support.bench import Bench
from support.brightness import Brightness
from support.report_studies import MODEL

ROWS, COLUMNS = 640, 512
CELLS, HOT = (10, 8), (3, 5)
"""The grid of the heat maps, and row and column of the cell that is pointed at: no turn brings it back."""
BOX = (320.0, 192.0, 384.0, 256.0)
"""Left, top, right and bottom of that cell in an image of ROWS x COLUMNS."""
PATIENT, PATIENT_ID = "ROENTGEN^ANNA BERTHA", "P-4711"
CONFIG = """[node]
ae_title = "PACSNODE"
[storage]
min_free_gb = 0
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
[study]
quiet_seconds = 0
[web]
port = 0
"""


def study(seed: int = 21, *, fractured: bool = True, laterality: Side = "R") -> list[FileDataset]:
    """Two views of a named patient's wrist."""
    header = replace(phantom.phantom_study(seed, laterality), patient_name=PATIENT, patient_id=PATIENT_ID)
    return [
        phantom.dataset(
            seed,
            fractured=fractured,
            rows=ROWS,
            columns=COLUMNS,
            view=view,
            laterality=laterality,
            study=header,
        )
        for view in ("PA", "LL")
    ]


class WebBench(Bench):
    """A node on the real clock, and its pages."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.config = folder / "config.toml"
        self.config.write_text(config, encoding="utf-8")
        settings = load(self.config)
        model = Brightness(model=MODEL, cells=CELLS, hottest=HOT)
        super().__init__(folder, model, database=open_database(settings.database_url), settings=settings)
        self.url = ""
        self._clients: list[httpx.Client] = []
        self._stop = threading.Event()
        users = Users(self.settings.web.users)
        for role in Role:
            users.set(role, role, f"the password of {role}")
        backend = access.Backend(
            self.settings, self.database, self.files, users, self.display, self.config, self._stop
        )
        self.app = app.create(backend)

    def display(self, sha256: str) -> NDArray[np.float32]:
        """A stored image as displayed."""
        return pixels.prepare(decode.read(self.files.path(sha256))).display

    def report(self, *probabilities: float) -> None:
        """Do all that is due; the model answers with these probabilities, one per image."""
        self.model.probabilities = list(probabilities)
        self.work(minutes=0)

    def client(self, who: Role | None) -> httpx.Client:
        """An HTTP client, logged in as the user named after this role."""
        cookies = {} if who is None else {access.COOKIE: sessions.begin(self.database, who, who)}
        client = httpx.Client(base_url=self.url, cookies=cookies, timeout=60, trust_env=False)
        self._clients.append(client)
        return client

    def sources(self, study_instance_uid: str) -> Sequence[str]:
        """The UIDs of the images in the viewer's order."""
        listed = self.client(Role.ADMIN).get(f"/studies/{study_instance_uid}/images").json()
        return [image["uid"] for image in listed]

    @contextmanager
    def serving(self) -> Iterator[WebBench]:
        """Serve the pages over HTTP while the block lasts."""
        ready = threading.Event()

        def tell(where: str) -> None:
            self.url = where
            ready.set()

        thread = threading.Thread(target=app.serve, args=(self.app, self.settings, tell, self._stop))
        thread.start()
        assert ready.wait(30)
        try:
            yield self
        finally:
            for client in self._clients:
                client.close()
            self._stop.set()
            thread.join()
            self.database.close()
