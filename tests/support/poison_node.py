"""A worker that fails on poisonous images, in the way that their ImageComments names, when it decodes them.

Run as a program with the configuration's path; `supervise` starts it again when it has died. Its waits are
short and its model is torch-free.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pydicom import dcmread

from pacs_node.analyze import decode
from pacs_node.cli.log import configure_log
from pacs_node.config import load
from pacs_node.journal import processes, queue
from pacs_node.roles import lifecycle, worker
from support.brightness import Brightness

HANG_SECONDS = 5.0


def main() -> None:
    """Work until told to stop, or until an image ends it."""
    queue.LEASE_SECONDS = processes.LEASE_SECONDS = 1.0  # type: ignore[attr-defined]
    lifecycle.BEAT_SECONDS, lifecycle.POLL_SECONDS, worker.HANG_SECONDS = 0.2, 0.05, HANG_SECONDS
    worker.RETRY_SECONDS = 0.1
    read = decode.read

    def poisoned(path: Path) -> Any:
        comment = dcmread(path, stop_before_pixels=True).get("ImageComments")
        if comment == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if comment == "hang":
            # PyDLL, unlike CDLL, keeps the interpreter's lock: no other thread of Python runs meanwhile.
            ctypes.PyDLL(None).sleep(1000)
        if comment == "memory":
            bytearray(1 << 50)
        return read(path)

    decode.read = poisoned
    settings = load(Path(sys.argv[1]))
    configure_log(settings)
    worker.run(settings, lifecycle.stop_on_signals(supervised=True), lambda _: Brightness())


if __name__ == "__main__":
    main()
