"""Asks the PACS how many images a study has: a complete one need not wait, a partial one says so."""

from __future__ import annotations

import structlog

from pacs_node.config import Settings
from pacs_node.deliver import query
from pacs_node.errors import DeliveryError
from pacs_node.journal import studies
from pacs_node.journal.database import Database

_log = structlog.get_logger(__name__)


def step(settings: Settings, database: Database, calling_ae_title: str) -> bool:
    """Ask for one study that is due; False where none is. A PACS that does not answer changes nothing.

    Asked is the first of the study's destinations that can be queried.
    """
    modalities = settings.study.accept.modalities
    quiet_seconds = settings.study.quiet_seconds
    study = studies.next_to_count(database, quiet_seconds, modalities)
    if study is None:
        return False
    names = settings.destinations_for(set(study.senders))
    pacs = next((one for one in settings.destinations if one.name in names and one.query_address), None)
    try:
        if pacs is None:
            raise DeliveryError("no destination of this study has an AE to query")
        with query.connect(pacs, calling_ae_title) as connection:
            expected, missing = connection.images(study.study_instance_uid, modalities, study.received)
    except DeliveryError as error:
        studies.record_count_failure(database, study, str(error))
        _log.warning("study_not_counted", study_instance_uid=study.study_instance_uid, why=str(error))
        return True
    uids = sorted(uid for series in missing.values() for uid in series)
    studies.record_count(database, study, quiet_seconds, pacs.name, expected, uids)
    _log.info(
        "study_counted", study_instance_uid=study.study_instance_uid, expected=expected, missing=len(uids)
    )
    return True
