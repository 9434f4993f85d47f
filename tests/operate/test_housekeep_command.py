"""What an administrator asks for now: one job of the calendar, and what the last ones said."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pacs_node.journal import audit
from pacs_node.journal.database import open_database
from pacs_node.operate import housekeeping

CONFIG = """
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
"""


def test_a_job_can_be_done_now(tmp_path: Path, free_port: Callable[[], int]) -> None:
    (tmp_path / "config.toml").write_text(CONFIG.format(port=free_port()))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pacs_node", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    database = open_database(f"sqlite:///{tmp_path}/storage/journal.sqlite")
    made = run("housekeep", "--run", "backup")
    assert made.returncode == 0, made.stderr
    (copy,) = (tmp_path / "storage" / "backups").iterdir()
    assert copy.name in made.stdout
    assert housekeeping.last(database, "backup")["file"] == copy.name
    wrong = run("housekeep", "--run", "lunch")
    assert wrong.returncode == 2
    assert "the jobs are validation, retention, backup, disk, echo" in wrong.stderr
    assert run("housekeep", "--run", "echo").returncode == 0
    told = json.loads(run("status", "--json").stdout)
    assert "is closed" in told["unreachable"]["pacs"]
    assert told["disk_low"] is False
    assert "destination pacs: unreachable: " in run("status").stdout
    assert audit.verify(database)[1] is None
    database.close()
