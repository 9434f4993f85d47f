"""A wire between two programs on this machine that can be cut, held or slowed at any byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNK = 4096


@dataclass
class Wire:
    """The faults of the wire. Bytes are counted per connection.

    `hold_answers_at`: after so many bytes of answers nothing comes any more, and nobody hangs up.
    `cut_answers_at`: after so many bytes of answers both sides find the connection closed.
    `bytes_per_second`: how fast requests get through; None: at once.
    """

    to: int
    hold_answers_at: int | None = None
    cut_answers_at: int | None = None
    bytes_per_second: float | None = None
    port: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def _carry(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        left = (self.cut_answers_at or self.hold_answers_at) if answers else None
        with suppress(OSError):
            while data := source.recv(CHUNK if left is None else min(CHUNK, left)):
                target.sendall(data)
                if not answers and self.bytes_per_second:
                    self.ended.wait(len(data) / self.bytes_per_second)
                if left is not None:
                    left -= len(data)
                    if left == 0:
                        if self.hold_answers_at:
                            self.ended.wait()
                        break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire(to: int, **faults: float | None) -> Iterator[Wire]:
    """Open a wire to a port of 127.0.0.1; clients connect to its own `port`."""
    line = Wire(to, **faults)  # type: ignore[arg-type]
    carriers: list[threading.Thread] = []
    ends: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line.port = listener.getsockname()[1]

        def accept() -> None:
            with suppress(OSError):
                while True:
                    here, _ = listener.accept()
                    there = socket.create_connection(("127.0.0.1", to))
                    ends.extend((here, there))
                    for source, target, answers in ((here, there, False), (there, here, True)):
                        carriers.append(threading.Thread(target=line._carry, args=(source, target, answers)))
                        carriers[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield line
        finally:
            line.ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for end in ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for carrier in carriers:
                carrier.join()
            for end in ends:
                end.close()
