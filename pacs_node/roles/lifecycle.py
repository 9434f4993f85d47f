"""How a role lives: a process with a row of its own that works until it is told to stop, and survives errors.

It finishes what it has in hand, then it ends.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import structlog

from pacs_node.errors import PacsNodeError
from pacs_node.journal import processes, queue
from pacs_node.journal.database import Database
from pacs_node.records import RunningRole

BEAT_SECONDS = 5.0
POLL_SECONDS = 0.2
ERROR_PAUSE_SECONDS = 5.0

_ENDS = {signal.SIGTERM, signal.SIGINT}
_log = structlog.get_logger(__name__)


class Heartbeat:
    """Keeps a process's row and its leases fresh from a thread of its own, until it is left.

    `hang_seconds`, for roles that hold one lease at a time: the process ends itself when it holds one for
    longer, with the stack of each thread on standard error.
    """

    def __init__(self, database: Database, role: str, hang_seconds: float | None = None) -> None:
        self._database = database
        self._hang_seconds = hang_seconds
        self._role = RunningRole(role, socket.gethostname(), os.getpid(), address="", ready=False)
        self._tokens: set[str] = set()
        self.stats: Callable[[], Mapping[str, float]] = dict
        """Asked at each beat for what only this process knows; see `RunningRole.stats`."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        processes.leave(self._database, self._role)

    def ready(self, address: str = "") -> None:
        """Say that the role does its work now, and at which address."""
        self._role = replace(self._role, ready=True, address=address)
        self._beat()
        _log.info("ready", address=address)

    @contextmanager
    def hold(self, token: str) -> Iterator[None]:
        """Renew this lease until the block is left."""
        self._tokens.add(token)
        if self._hang_seconds:
            # Its timer needs no Python: it goes off although a decoder never lets go of the interpreter.
            faulthandler.dump_traceback_later(self._hang_seconds, exit=True)
        try:
            yield
        finally:
            if self._hang_seconds:
                faulthandler.cancel_dump_traceback_later()
            self._tokens.discard(token)

    def _run(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            with surviving("heartbeat"):
                queue.renew(self._database, tuple(self._tokens))
                self._beat()

    def _beat(self) -> None:
        processes.beat(self._database, replace(self._role, stats=dict(self.stats())))


@contextmanager
def surviving(what: str) -> Iterator[None]:
    """The edge of a loop that must survive: an error is logged and the loop goes on.

    What was bound to the log since, such as the study that is worked on, is let go of.
    """
    try:
        yield
    except PacsNodeError as error:
        _log.error("loop_error", loop=what, error=str(error))
    except Exception:  # noqa: BLE001 - that is what this edge is for
        _log.exception("loop_error", loop=what)
    finally:
        structlog.contextvars.clear_contextvars()


def work_off(stop: threading.Event, what: str, step: Callable[[], bool]) -> None:
    """Repeat a step until nothing is due or the role is to stop; after an error, pause."""
    more = True
    while more and not stop.is_set():
        more = False
        failed = True
        with surviving(what):
            more = step()
            failed = False
        if failed:
            stop.wait(ERROR_PAUSE_SECONDS)


def stop_on_signals(supervised: bool) -> threading.Event:
    """An event that SIGTERM and SIGINT set; where supervised, the end of standard input too.

    The pipe closes also when the supervisor is killed, so that it leaves no orphans.
    """
    stop = threading.Event()
    # The handler itself must not set it: its thread may hold the lock of the event, and would then wait for
    # ever. The interpreter writes to this pipe at once, whichever thread the signal came to.
    signals, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _ENDS:
        signal.signal(number, lambda *_: None)

    def watch(descriptor: int) -> None:
        # Unbuffered: a daemon thread in a buffered read makes the interpreter's end a fatal error.
        while (got := os.read(descriptor, 1)) and (descriptor != signals or got[0] not in _ENDS):
            pass
        stop.set()

    for descriptor in (signals, sys.stdin.fileno()) if supervised else (signals,):
        threading.Thread(target=watch, args=(descriptor,), name="stop", daemon=True).start()
    return stop
