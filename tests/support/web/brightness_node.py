"""The node as `serve` runs it, each role a process of its own, with a torch-free model in its worker.

Run as a program with the configuration's path. The threshold is that of the configuration.
"""

import subprocess
import sys
from pathlib import Path

from pacs_node.cli.log import configure_log
from pacs_node.config import load
from pacs_node.journal.database import open_database
from pacs_node.roles import lifecycle, supervisor, worker
from support.brightness import Brightness

ROLES = ("receive", "worker", "deliver", "housekeep", "web")


def _start(role: str, config: Path | None) -> subprocess.Popen[bytes]:
    ours = ["-m", __spec__.name, str(config), "worker"]
    product = ["-m", "pacs_node", "--config", str(config), role, "--supervised"]
    command = [sys.executable, *(ours if role == "worker" else product)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def main() -> int:
    """The supervisor, or the worker that it starts."""
    config = Path(sys.argv[1])
    settings = load(config)
    configure_log(settings)
    if sys.argv[2:] == ["worker"]:
        stop = lifecycle.stop_on_signals(supervised=True)
        worker.run(settings, stop, lambda _: Brightness(settings.model.threshold or 0.5))
        return 0
    open_database(settings.database_url).close()
    supervisor._start = _start
    return supervisor.supervise(config, ROLES, lifecycle.stop_on_signals(supervised=False))


if __name__ == "__main__":
    sys.exit(main())
