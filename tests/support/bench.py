"""One node without its network, in this process: what it receives, does and answers, one step at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs_node import pipeline
from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, views
from pacs_node.journal.database import Database
from pacs_node.node import Node
from pacs_node.records import AuditEvent, DeliveryState
from pacs_node.roles.receive import take_in
from pacs_node.roles.worker import Worker
from support.brightness import Brightness
from support.journal import Clock

PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}


class NoLeases:
    """Leases that need no renewal: a test ends before one expires."""

    def hold(self, token: str) -> AbstractContextManager[None]:
        """Nothing to renew."""
        return nullcontext()


class Bench:
    """A node whose steps a test takes: `receive` images, `work`, `deliver`, then look at the journal.

    Every keyword is a section of the settings; by default there is one destination, `pacs`.
    """

    def __init__(
        self,
        folder: Path,
        model: Brightness | None = None,
        clock: Clock | None = None,
        database: Database | None = None,
        settings: Settings | None = None,
        **sections: object,
    ) -> None:
        values = {"storage": {"path": folder}, "destinations": [PACS], **sections}
        self.settings = settings or Settings.model_validate(values)
        self.model = model or Brightness()
        self.clock = clock or Clock(1_800_000_000.0)
        self.database = database or Database(self.settings.database_url, self.clock)
        self.database.migrate()
        self.files = FileStore(self.settings.storage.path)
        self.identity = self.database.identity(self.settings.node.ae_title)

    def receive(self, *images: Dataset) -> str:
        """Store these images in the spool and register them; their Study Instance UID."""
        for image in images:
            self.files.spool([pipeline.encoded(image)], str)
        self.take_in()
        return str(images[0].StudyInstanceUID)

    @property
    def node(self) -> Node:
        """The node with the settings as they are now."""
        return Node(self.settings, self.database, self.files, self.identity)

    def take_in(self) -> None:
        """Register what is in the spool."""
        assert not take_in(self.node, {})

    def worker(self) -> Worker:
        """A worker of this node."""
        return Worker(self.node, self.model, NoLeases())

    def work(self, minutes: int = 60) -> None:
        """Do all that is due now or comes due while so many minutes pass."""
        worker = self.worker()
        for minute in range(0, minutes + 1, 3):
            self.clock.now += 180 if minute else 0
            while worker.step():
                pass

    def deliver(
        self, state: DeliveryState = DeliveryState.SENT, status: int = 0, comment: str = "", **how: Any
    ) -> None:
        """Have `pacs` answer everything that is due there in this way."""
        while claim := deliveries.claim_deliveries(self.database, "pacs", 50):
            for item in claim.items:
                assert deliveries.finish_delivery(
                    self.database, claim.token, item, state, status, comment, **how
                )

    def study(self, study: Dataset | str) -> dict[str, Any]:
        """A study by its UID or one of its images, as `show` prints it."""
        shown = views.study(self.database, _uid(study))
        assert shown is not None
        return shown

    def results(self, study: Dataset | str, role: str) -> list[Dataset]:
        """The objects that were made for a study, each once: role "SR" or "SC"."""
        made = [result["sha256"] for result in self.study(study)["results"] if result["role"] == role]
        return [dcmread(self.files.path(sha256)) for sha256 in dict.fromkeys(made)]

    def events(self, kind: str, study: Dataset | str | None = None) -> list[AuditEvent]:
        """The audit events of one kind, of all studies or of one."""
        events = audit.events(self.database, _uid(study) if study else None)
        return [event for event in events if event.event == kind]

    def event_kinds(self, study: Dataset | str) -> list[str]:
        """The kinds of a study's audit events, in their order."""
        return [event.event for event in audit.events(self.database, _uid(study))]

    def close(self) -> None:
        """Close the database, whose audit log must still verify."""
        assert audit.verify(self.database)[1] is None
        self.database.close()


def _uid(study: Dataset | str) -> str:
    return study if isinstance(study, str) else str(study.StudyInstanceUID)
