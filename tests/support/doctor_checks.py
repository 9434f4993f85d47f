"""Settings with planted faults, and the checks that `doctor` runs on them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pacs_node import config
from pacs_node.journal.database import Database
from pacs_node.operate.doctor import Check, examination
from support import phantom


def settings(folder: Path, port: int = 0, text: str = "") -> config.Settings:
    """Settings with a PACS at this port (0: none) and more TOML; no disk space is required."""
    pacs = f'[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\n'
    peers = '[[peers]]\nname = "pacs"\nae_title = "PACS"\n'
    path = folder / "config.toml"
    least = "" if "min_free_gb" in text else "[storage]\nmin_free_gb = 0\n"
    own = '[node]\nhost = "127.0.0.1"\nport = 0\n[web]\nport = 0\n'
    path.write_text(own + least + peers + (pacs if port else "") + text, encoding="utf-8")
    return config.load(path)


def examine(settings: config.Settings, *wanted: str) -> list[Check]:
    """The checks of the steps named; by default of all but the slow ones about the model."""
    image = phantom.dataset(1, rows=256, columns=200)
    with closing(Database(settings.database_url)) as database:
        steps = examination.steps(settings, "config.toml", database, image)
        chosen = [step for step in steps if step.what in wanted or not (wanted or step.what == "model")]
        return [check for step in chosen for check in step.run()]


def failed(checks: list[Check]) -> list[tuple[str, str]]:
    """Subject and finding of each failed check."""
    return [(check.what, check.found) for check in checks if check.state == "fail"]


def only_fault(checks: list[Check]) -> Check:
    """The only check that fails."""
    (fault,) = [check for check in checks if check.state == "fail"]
    return fault
