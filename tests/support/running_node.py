"""A node as its users run it: `pacs-node serve` in processes of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pacs_node.demo.pacs import Address

WaitUntil = Callable[[Callable[[], object], float], None]


class RunningNode:
    """A node's folder, its configuration, and the processes that `serve` started."""

    def __init__(self, folder: Path, address: Address, wait_until: WaitUntil, config: str) -> None:
        self.address = address
        self.storage = folder / "storage"
        self._config = folder / "config.toml"
        self._log = folder / "node.log"
        self._wait_until = wait_until
        self._process: subprocess.Popen[bytes] | None = None
        node = f'[node]\nae_title = "{address.ae_title}"\nhost = "127.0.0.1"\nport = {address.port}\n'
        web = "" if "[web]" in config else "[web]\nenabled = false\n"
        self._config.write_text(node + config + web, encoding="utf-8")

    def start(self) -> None:
        """Start it and return once every role is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command(), "serve"], stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            self._wait_until(self.is_ready, 90)
        except pytest.fail.Exception:
            sys.stderr.write(self._log.read_text(errors="replace"))
            raise

    def is_ready(self) -> bool:
        """Whether `status` reports the node as ready."""
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        return self.run("status").returncode == 0

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command of pacs-node with this node's configuration."""
        return subprocess.run([*self._command(), *arguments], capture_output=True, text=True, check=False)

    def ask(self, *arguments: str) -> Any:
        """The JSON printed by a command."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def pids(self) -> list[int]:
        """The process ids of the supervisor and the roles."""
        assert self._process is not None
        roles = [role["pid"] for role in self.ask("status")["roles"]]
        return [self._process.pid, *roles]

    def kill(self) -> None:
        """Send SIGKILL to every process at once."""
        pids = self.pids()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._wait_until(lambda: not any(map(is_running, pids)), 10)

    def kill_supervisor(self) -> None:
        """Send SIGKILL to the supervisor alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def is_running(self) -> bool:
        """Whether the supervisor runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)

    def is_settled(self, studies: int) -> bool:
        """Whether exactly so many studies are known and all of them are in a final state."""
        rows = self.ask("studies", "--limit", "1000")
        final = {"DELIVERED", "SKIPPED", "FAILED", "QUARANTINED"}
        return len(rows) == studies and all(row["state"] in final for row in rows)

    @property
    def log(self) -> str:
        """The log of all processes."""
        return self._log.read_text(errors="replace")

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "pacs_node", "--config", str(self._config)]


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
