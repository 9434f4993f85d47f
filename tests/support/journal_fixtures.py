"""A real journal, on SQLite and on PostgreSQL, with a clock that the test sets."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from pydicom.sr.coding import Code

from pacs_node.heatmap import HeatMap
from pacs_node.journal.database import Database
from pacs_node.records import Arrival, Finding, ModelIdentity


class Clock:
    """Time that passes only when told."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(journal_url: str, clock: Clock) -> Iterator[Database]:
    database = Database(journal_url, clock)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def model() -> ModelIdentity:
    return ModelIdentity(
        id="test-model",
        name="test",
        version="1",
        sha256="ab" * 32,
        threshold=0.5,
        finding=Code("125605004", "SCT", "Fracture of bone"),
        positive_phrase="Fracture suspected",
        negative_phrase="no fracture suspected",
        negative_caveat="This does not exclude a fracture.",
    )


@pytest.fixture
def finding() -> Finding:
    heat_map = HeatMap(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), (8.0, 9.0), (16.0, 17.0))
    return Finding("cd" * 32, 0.1234, False, heat_map, (), ("a note",))


@pytest.fixture
def arrival(clock: Clock) -> Callable[..., Arrival]:
    def make(image: str = "1.2.3", sha256: str = "a" * 64, **changes: object) -> Arrival:
        values: dict[str, object] = {
            "sha256": sha256,
            "size": 10,
            "received_at": clock.now,
            "calling_ae_title": "PACS",
            "called_ae_title": "NODE",
            "address": "127.0.0.1",
            "study_instance_uid": "1.2",
            "series_instance_uid": "1.2.1",
            "sop_instance_uid": image,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "modality": "DX",
            "patient_id": "P1",
            "skip_reason": None,
        }
        return Arrival(**(values | changes))  # type: ignore[arg-type]

    return make
