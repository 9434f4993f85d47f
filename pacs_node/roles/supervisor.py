"""Starts each role as a process, restarts it with back-off when it dies, and passes SIGTERM on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

STOP_SECONDS = 30.0
CHECK_SECONDS = 0.2
FIRST_RESTART_SECONDS = 1.0
LAST_RESTART_SECONDS = 60.0
LAST_CRASH_RESTART_SECONDS = 4.0
"""For a role killed by a signal: it crashed on its work, such as a broken image. The attempts in the journal
limit the repetitions, and other work is waiting."""
STABLE_SECONDS = 60.0
WRONG_CONFIGURATION = 2
_DISPENSABLE = "web"
"""Its wrong configuration does not stop the node, which receives and reports without the pages."""

_log = structlog.get_logger(__name__)


@dataclass
class _Child:
    role: str
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    starts: int = 0
    restarts: int = 0
    start_at: float = 0.0


def supervise(config: Path | None, roles: Sequence[str], stop: threading.Event) -> int:
    """Run the roles until `stop` is set or one exits for a wrong configuration; returns the exit code.

    A role that is twice in `roles` runs twice.
    """
    children = [_Child(role) for role in roles]
    code = 0
    while not stop.is_set() and code == 0:
        for child in children:
            code = _tend(child, config) or code
        stop.wait(CHECK_SECONDS)
    _end(children)
    return code


def _tend(child: _Child, config: Path | None) -> int:
    """Start a child that is due and note one that died; returns 2 if its first start exits with 2.

    A later fault, such as an altered model, must not stop the other roles.
    """
    now = time.monotonic()
    if child.process is None:
        if now >= child.start_at:
            child.process = _start(child.role, config)
            child.started_at = now
            child.starts += 1
        return 0
    status = child.process.poll()
    if status is None:
        return 0
    if child.process.stdin:
        child.process.stdin.close()
    child.process = None
    if status == WRONG_CONFIGURATION and child.starts == 1 and child.role != _DISPENSABLE:
        return WRONG_CONFIGURATION
    child.restarts = 0 if now - child.started_at > STABLE_SECONDS else child.restarts + 1
    longest = LAST_CRASH_RESTART_SECONDS if status < 0 else LAST_RESTART_SECONDS
    pause = min(longest, FIRST_RESTART_SECONDS * 2.0 ** min(child.restarts, 10))
    child.start_at = now + pause
    _log.error("role_died", died=child.role, status=status, restart_in_seconds=pause)
    return 0


def _start(role: str, config: Path | None) -> subprocess.Popen[bytes]:
    # Popen, since CUDA does not survive a fork; a new session, so that Ctrl-C reaches the supervisor only; a
    # pipe whose end shows the role that the supervisor is gone.
    options = ["--config", str(config)] if config else []
    command = [sys.executable, "-m", "pacs_node", *options, role, "--supervised"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _end(children: Sequence[_Child]) -> None:
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _log.error("role_killed", killed_pid=process.pid, why=f"still working after {STOP_SECONDS:.0f} s")
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()
