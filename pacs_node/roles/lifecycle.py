"""Role lifecycle: heartbeat row, lease renewal, error isolation, graceful shutdown."""

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
    """Keeps a process's row and its leases fresh from a background thread; a context manager.

    `hang_seconds`, for roles with one lease at a time: a process that holds one for longer ends itself, with
    all stacks on standard error.
    """

    def __init__(self, database: Database, role: str, hang_seconds: float | None = None) -> None:
        self._database = database
        self._hang_seconds = hang_seconds
        self._role = RunningRole(role, socket.gethostname(), os.getpid(), address="", ready=False)
        self._tokens: set[str] = set()
        self.stats: Callable[[], Mapping[str, float]] = dict
        """Figures that only this process knows, read at each beat; see `RunningRole.stats`."""
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
        """Publish that the role is ready, and its address."""
        self._role = replace(self._role, ready=True, address=address)
        self._beat()
        _log.info("ready", address=address)

    @contextmanager
    def hold(self, token: str) -> Iterator[None]:
        """Renew this lease within the block."""
        self._tokens.add(token)
        if self._hang_seconds:
            # Its timer works without the interpreter lock, which a hanging decoder may hold.
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
    """Log an error instead of raising it, so that the loop goes on; then clear the log's context."""
    try:
        yield
    except PacsNodeError as error:
        _log.error("loop_error", loop=what, error=str(error))
    except Exception:  # noqa: BLE001 - one error must not end the role
        _log.exception("loop_error", loop=what)
    finally:
        structlog.contextvars.clear_contextvars()


def work_off(stop: threading.Event, what: str, step: Callable[[], bool]) -> None:
    """Repeat a step until nothing is due or `stop` is set; pause after an error."""
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
    """An event set by SIGTERM and SIGINT and, if supervised, by the end of standard input.

    The pipe also closes when the supervisor is killed, so no orphans are left.
    """
    stop = threading.Event()
    # A handler must not set the event: its thread may hold the event's lock, a deadlock. The interpreter
    # writes to this pipe at once, whichever thread received the signal.
    signals, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _ENDS:
        signal.signal(number, lambda *_: None)

    def watch(descriptor: int) -> None:
        # Unbuffered: a daemon thread in a buffered read makes interpreter shutdown fail.
        while (got := os.read(descriptor, 1)) and (descriptor != signals or got[0] not in _ENDS):
            pass
        stop.set()

    for descriptor in (signals, sys.stdin.fileno()) if supervised else (signals,):
        threading.Thread(target=watch, args=(descriptor,), name="stop", daemon=True).start()
    return stop
