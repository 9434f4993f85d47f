"""Roles of the node as processes that die at a planned point: the entry point of the fault harness.

It imports everything once and forks a role for each line of JSON on its standard input, so that a role
starts in hundredths of a second; the line is answered with the process's id. The model is torch-free. To die,
a role sends itself SIGKILL before or after the n-th call of one of the functions in POINTS, or SIGSTOP to
stall: the product has no hooks. End of file on standard input kills what still runs.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from pynetdicom import AE
from pynetdicom.association import Association
from sqlalchemy.engine.default import DefaultDialect

from pacs_node import files, pipeline
from pacs_node.cli.log import configure_log
from pacs_node.config import Settings, load
from pacs_node.deliver import sender
from pacs_node.journal import deliveries, instances, processes, queue, studies
from pacs_node.journal.transaction import Transaction
from pacs_node.receive import admission
from pacs_node.report import check, sc, sr
from pacs_node.roles import deliver, housekeep, lifecycle, receive, worker
from support.brightness import Brightness

LEASE_SECONDS = 2.0
STALLED = "stalled before"

POINTS: dict[str, tuple[tuple[str, ...], object, str]] = {
    "write": (("receive", "worker"), files, "_write_all"),
    "fsync": (("receive", "worker"), os, "fsync"),
    "sync folder": (("receive", "worker"), files, "_sync_folder"),
    "rename": (("receive",), Path, "rename"),
    "spool": (("receive",), files.FileStore, "spool"),
    "link": (("receive",), Path, "hardlink_to"),
    "keep": (("receive",), files.FileStore, "keep"),
    "examine": (("receive",), admission, "examine"),
    "register": (("receive",), instances, "register"),
    "forget": (("receive",), files.FileStore, "forget"),
    "unlink": (("receive",), Path, "unlink"),
    "claim instances": (("worker",), instances, "claim_instances"),
    "analyze": (("worker",), pipeline, "analyze_instances"),
    "finish instances": (("worker",), instances, "finish_instances"),
    "claim study": (("worker",), studies, "claim_study"),
    "build SC": (("worker",), sc, "build"),
    "build SR": (("worker",), sr, "build"),
    "verify": (("worker",), check, "verify"),
    "put": (("worker",), files.FileStore, "put"),
    "replace": (("worker",), Path, "replace"),
    "report study": (("worker",), pipeline, "report_study"),
    "finish report": (("worker",), studies, "finish_report"),
    "claim deliveries": (("deliver",), deliveries, "claim_deliveries"),
    "associate": (("deliver",), AE, "associate"),
    "send": (("deliver",), Association, "send_c_store"),
    "finish delivery": (("deliver",), deliveries, "finish_delivery"),
    "release": (("deliver",), Association, "release"),
    "audit": (("receive", "worker", "deliver"), Transaction, "audit"),
    "commit": (("receive", "worker", "deliver", "housekeep"), DefaultDialect, "do_commit"),
    "renew": (("worker", "deliver"), queue, "renew"),
    "beat": (("receive", "worker", "deliver", "housekeep"), processes, "beat"),
    "lead": (("housekeep",), processes, "lead"),
}
"""Where a role can die: which roles come by, and the function, by its home and its name."""
OFTEN = {"write", "fsync", "sync folder", "link", "examine", "unlink", "audit", "commit"}
"""Where it comes by many times for one image."""
HELD: dict[str, tuple[str, ...]] = {
    "worker": ("analyze", "finish instances", "build SC", "build SR", "finish report", "commit"),
    "deliver": ("associate", "send", "finish delivery", "commit"),
}
"""Where a role has a claim in hand, so that one that stalls comes back to work that others took over."""

ROLES: dict[str, Callable[[Settings, Any], None]] = {
    "receive": receive.run,
    "worker": lambda settings, stop: worker.run(settings, stop, lambda _: Brightness()),
    "deliver": deliver.run,
    "housekeep": housekeep.run,
}


def hurry() -> None:
    """Shorten the waits of a node: two seconds instead of half a minute."""
    queue.LEASE_SECONDS = processes.LEASE_SECONDS = LEASE_SECONDS  # type: ignore[attr-defined]
    lifecycle.BEAT_SECONDS, lifecycle.POLL_SECONDS = LEASE_SECONDS / 5, 0.05
    receive.GATHER_SECONDS = 0.02
    lifecycle.ERROR_PAUSE_SECONDS = 0.3
    sender.FIRST_RETRY_SECONDS, sender.LAST_RETRY_SECONDS = 0.1, 0.5
    worker.RETRY_SECONDS = 0.2
    # The harness kills workers without regard to what they have in hand: the image is not to blame.
    worker.MAX_ATTEMPTS = 10_000


def arm(how: str, point: str, n: int, say: Callable[[str], None]) -> None:
    """Make this process die "before" or "after" the n-th call of this function, or stall before it."""
    _, home, name = POINTS[point]
    real = getattr(home, name)
    calls = 0
    resting = _between_heartbeats() if how == STALLED else nullcontext()

    @functools.wraps(real)
    def doomed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        last = calls == n
        if last and how != "after":
            fall()
        result = real(*args, **kwargs)
        if last and how == "after":
            fall()
        return result

    def fall() -> None:
        with resting:
            say(f"{how} {point}")
            # At this thread: one for the process is taken by any, and this one goes on for a moment.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP if how == STALLED else signal.SIGKILL)

    setattr(home, name, doomed)


def _between_heartbeats() -> threading.Lock:
    """A lock that keeps the heartbeat out of transactions: stalling inside one would block every process."""
    resting = threading.Lock()

    def guard(real: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(real)
        def guarded(*args: Any) -> None:
            with resting:
                real(*args)

        return guarded

    processes.beat, queue.renew = guard(processes.beat), guard(queue.renew)
    return resting


def run(role: str, config: Path, crash: list[Any] | None, hurried: bool) -> NoReturn:
    """Run a role in the forked process; the file `deaths` gets a line about how it ended."""

    def say(how: str) -> None:
        line = os.open(config.parent / "deaths", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(line, f"{os.getpid()}\t{role}\t{how}\n".encode())

    log = os.open(config.parent / "node.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(descriptor, target)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        if hurried:
            hurry()
        settings = load(config)
        configure_log(settings)
        if crash is not None:
            how, point, n = crash
            arm(how, point, n, say)
        ROLES[role](settings, lifecycle.stop_on_signals(supervised=False))
        say("end")
    except BaseException as error:  # noqa: BLE001 - the end of a process: nobody else could say why
        traceback.print_exc()
        say(f"error {type(error).__name__}")
    os._exit(0)


def main() -> None:
    """Fork a role for each line on standard input."""
    # The kernel takes the dead away, so that a process that exists is one that lives.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: list[int] = []
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(request["role"], Path(request["config"]), request["crash"], request["hurried"])
        children.append(pid)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
