"""Rows of results that wait for delivery, as finish_report leaves them."""

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from pydicom import dcmread

from pacs_node.journal.database import Database
from pacs_node.journal.schema import DeliveryRow, ReportRow, ResultRow, StudyRow


def commit_results(database: Database, paths: Sequence[Path], destination: str) -> None:
    """One reported study 1.2 with these files as its results, all due for one destination."""
    study = {"id": 1, "study_instance_uid": "1.2", "state": "REPORTED", "revision": 1, "due_at": 0.0}
    times = {"first_received_at": 0.0, "last_received_at": 0.0}
    report = {"id": 1, "study_id": 1, "revision": 1, "inputs_key": "k", "outcome": "NEGATIVE", "summary": ""}
    model = {"model_id": "m", "model_sha256": "m", "created_at": 0.0}
    with database.write() as t:
        t.execute(sa.insert(StudyRow).values(**study, **times))
        t.execute(sa.insert(ReportRow).values(**report, **model))
        for number, path in enumerate(paths, 1):
            dataset = dcmread(path)
            t.execute(
                sa.insert(ResultRow).values(
                    id=number,
                    report_id=1,
                    study_id=1,
                    role="SC",
                    sop_instance_uid=dataset.SOPInstanceUID,
                    sop_class_uid=dataset.SOPClassUID,
                    series_instance_uid=dataset.SeriesInstanceUID,
                    sha256=path.stem,
                    size=path.stat().st_size,
                    created_at=0.0,
                )
            )
            t.execute(
                sa.insert(DeliveryRow).values(
                    result_id=number, destination=destination, state="PENDING", due_at=0.0
                )
            )
