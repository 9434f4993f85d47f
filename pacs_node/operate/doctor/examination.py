"""All checks in the order in which one fault explains the next."""

from __future__ import annotations

from functools import partial

from pydicom.dataset import FileDataset

from pacs_node.config import Settings
from pacs_node.journal.database import Database
from pacs_node.operate.doctor import Step, configuration, machine, model, pacs


def steps(settings: Settings, name: str, database: Database, phantom: FileDataset) -> list[Step]:
    """The checks of a node; `name` says where its settings are from, `phantom` is an image for the model."""
    return [
        Step("configuration", partial(configuration.check, settings, name)),
        Step("certificate", partial(configuration.certificate, settings)),
        Step("storage", partial(machine.storage, settings)),
        Step("database", partial(machine.journal, database)),
        Step("roles and ports", partial(machine.look, settings, database)),
        Step("own clock", machine.own_clock),
        *(Step(one.name, partial(pacs.destination, settings, one)) for one in settings.destinations),
        Step("decoders", model.decoders),
        Step("model", partial(model.model, settings, phantom)),
    ]
