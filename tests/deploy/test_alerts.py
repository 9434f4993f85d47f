"""The alert rules: promtool takes them, each fires for what it is there for, and each metric is exported."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from pacs_node.config import Settings, StorageSettings
from pacs_node.files import FileStore
from pacs_node.journal.database import open_database
from pacs_node.operate.metrics import NodeMetrics

RULES = Path(__file__).resolve().parents[2] / "deploy" / "alerts.yml"


def promtool(program: Path, *arguments: object) -> None:
    done = subprocess.run(
        [str(part) for part in (program, *arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_them(tool: Callable[[str], Path]) -> None:
    promtool(tool("promtool"), "check", "rules", RULES)


def test_each_fires_for_what_it_is_there_for_and_none_for_a_healthy_node(tool: Callable[[str], Path]) -> None:
    tests = Path(__file__).with_name("alerts_test.yml")
    promtool(tool("promtool"), "test", "rules", tests)
    fired = set(re.findall(r'alertname="(\w+)"', tests.read_text()))
    assert fired == set(re.findall(r"alert: (\w+)", RULES.read_text()))


def test_they_use_what_is_exported_and_what_starts_at_zero(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/journal.sqlite")
    metrics = NodeMetrics(Settings(storage=StorageSettings(path=tmp_path)), database, FileStore(tmp_path))
    families = {one.name + ("_total" if one.type == "counter" else ""): one for one in metrics.collect()}
    database.close()
    rules = RULES.read_text()
    used = set(re.findall(r"pacsnode_\w+", rules))
    assert len(used) > 10
    assert used <= set(families)
    events = {name for group in re.findall(r'event=~?"([\w|]+)"', rules) for name in group.split("|")}
    zero = {one.labels["event"]: one.value for one in families["pacsnode_audit_events_total"].samples}
    assert {event: zero.get(event) for event in events} == dict.fromkeys(events, 0)
