"""A storage SCP in a process of its own, and peers that send it malformed conversations.

As a program it is the role `receive`, which cuts off a stalled sender after STALL_SECONDS. Errors that end a
thread go to standard error, the port to standard output.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path

from pydicom.dataset import FileDataset
from pynetdicom import AE, evt

from support import phantom
from support.fuzz.pdus import ABORT_PDU, Stream

STALL_SECONDS = 2.0
VERIFICATION = "1.2.840.10008.1.1"


def small(seed: int) -> FileDataset:
    """An image of few bytes, so that mutations rarely hit equivalent places."""
    image = phantom.dataset(seed, rows=64, columns=64)
    image.Rows = image.Columns = 8
    image.PixelData = image.PixelData[:128]
    return image


def record(port: int) -> list[bytes]:
    """The PDUs that send one small image: association request, C-STORE command and data, release request."""
    sent: list[bytes] = []
    image = small(1)
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(image.SOPClassUID, "1.2.840.10008.1.2.1")
    ae.add_requested_context(VERIFICATION)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))]
    association = ae.associate("127.0.0.1", port, evt_handlers=handlers)
    assert association.send_c_store(image).Status == 0
    association.release()
    return sent


def send(port: int, conversation: Stream, patience: float = 30.0) -> str:
    """Send this conversation; how the other side reacted: answered, hung up, silent, or hung."""
    answered = False
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for number, piece in enumerate(conversation.pieces):
                connection.sendall(piece)
                if number == 0 and conversation.waits:
                    connection.settimeout(0.5)
                    with suppress(TimeoutError):
                        answered = bool(connection.recv(65536))
                    connection.settimeout(patience)
            if conversation.end == "abort":
                connection.sendall(ABORT_PDU)
            elif conversation.end == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif conversation.end == "wait":
                while connection.recv(65536):
                    answered = True
        except TimeoutError:
            return "hung"
        except OSError:
            return "hung up"
    return "answered" if answered else "silent"


def echo_and_store(port: int) -> bool:
    """Whether a C-ECHO and a C-STORE still succeed."""
    image = small(2)
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(image.SOPClassUID, "1.2.840.10008.1.2.1")
    ae.add_requested_context(VERIFICATION)
    association = ae.associate("127.0.0.1", port)
    if not association.is_established:
        return False
    statuses = [association.send_c_echo().get("Status"), association.send_c_store(image).get("Status")]
    association.release()
    return statuses == [0, 0]


def main() -> None:
    """Receive until SIGTERM."""
    from pacs_node.cli.log import configure_log
    from pacs_node.config import Settings
    from pacs_node.receive import scp
    from pacs_node.roles import receive

    scp.REQUEST_SECONDS = scp.STALL_SECONDS = STALL_SECONDS
    settings = Settings.model_validate(
        {
            "storage": {"path": Path(sys.argv[1]), "min_free_gb": 0},
            "node": {"host": "127.0.0.1", "port": 0},
            "log": {"level": "error"},
        }
    )
    configure_log(settings)
    start = scp.StorageScp.start

    def tell(self: scp.StorageScp) -> None:
        start(self)
        sys.stdout.write(f"{self.port}\n")
        sys.stdout.flush()

    scp.StorageScp.start = tell  # type: ignore[method-assign]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    receive.run(settings, stop)


if __name__ == "__main__":
    main()
