"""A process that resumes after its lease expired, and another has done its work, changes nothing."""

import ctypes
import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from support.faults.doomed_role import ROLES, STALLED
from support.faults.invariants import Figures, Invariants
from support.faults.killer import Processes, is_alive
from support.faults.pacs import ScriptedPacs
from support.faults.run import free_port, unfinished, write_config
from support.faults.senders import Senders
from support.running_node import WaitUntil

from pacs_node.config import load
from pacs_node.files import FileStore
from pacs_node.journal.database import open_database
from pacs_node.journal.processes import running

STALLS = (("worker", "finish instances"), ("worker", "finish report"), ("deliver", "finish delivery"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_sigterm_ends_a_role_whichever_thread_receives_it(tmp_path: Path, wait_until: WaitUntil) -> None:
    # As after a stall: the signal lay waiting, and the first thread to run again took it.
    config = write_config(tmp_path, 0, free_port(), "", "PACS", free_port())
    processes = Processes(tmp_path)
    try:
        pids = [processes.start(role, config) for role in ROLES]
        with closing(open_database(load(config).database_url)) as journal:
            wait_until(lambda: sum(process.ready for process in running(journal)) == len(pids), 60)
        for pid in pids:
            others = {thread.id for thread in psutil.Process(pid).threads()} - {pid}
            assert ctypes.CDLL(None).tgkill(pid, min(others), signal.SIGTERM) == 0
        wait_until(lambda: not any(map(is_alive, pids)), 60)
        assert processes.deaths() == dict.fromkeys(pids, "end")
    finally:
        processes.close()


def test_a_process_that_resumes_after_its_lease_expired_changes_nothing(
    tmp_path: Path, journal_url: str, wait_until: WaitUntil
) -> None:
    (images := tmp_path / "images").mkdir()
    pacs = ScriptedPacs(free_port(), "well", moody=False)
    port, enough = free_port(), threading.Event()
    config = write_config(tmp_path, 0, port, journal_url, pacs.ae_title, pacs.port)
    settings = load(config)
    processes = Processes(tmp_path)
    with closing(open_database(settings.database_url)) as journal:
        senders = Senders([port], images, "stalls", enough, journal, allowed=1)
        try:
            pacs.start()
            others = [processes.start("receive", config)]
            senders.start()
            late = []
            # Each takes over from the one before, in each of the three queues.
            for role, point in STALLS:
                late.append(processes.start(role, config, (STALLED, point, 1)))
                if role == "deliver":
                    others.append(processes.start("worker", config))
                wait_until(lambda: psutil.Process(late[-1]).status() == psutil.STATUS_STOPPED, 60)
            others.append(processes.start("deliver", config))
            enough.set()
            senders.join()
            wait_until(lambda: not unfinished(journal, settings.storage.path), 60)
            for pid in (*late, *others):
                os.kill(pid, signal.SIGTERM)
            for pid in late:
                # It ends once it has said, in vain, what it had in hand.
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: not any(map(is_alive, (*late, *others))), 60)
            ends = processes.deaths()
            assert [ends[pid] for pid in late] == ["end"] * len(late)
            figures = Figures("stalls")
            Invariants(figures, journal, FileStore(settings.storage.path), senders.images, pacs).all()
            assert not figures.violations
        finally:
            enough.set()
            processes.close()
            pacs.stop()
