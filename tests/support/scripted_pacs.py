"""A storage SCP with scripted answers."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import ThreadedAssociationServer

from pacs_node.config import Destination


def listen(
    ae: AE, *handlers: evt.EventHandlerType, port: int = 0, context: ssl.SSLContext | None = None
) -> ThreadedAssociationServer:
    """Start an SCP on a port of 127.0.0.1, by default a free one: `server.server_address[1]`."""
    where = ("127.0.0.1", port)
    server = ae.start_server(where, block=False, evt_handlers=list(handlers), ssl_context=context)
    assert server is not None
    return server


@dataclass
class Pacs:
    """Gives `answers` in their order, then 0x0000; `abort` ends each association at its first object."""

    answers: list[int] = field(default_factory=list)
    abort: bool = False
    mute: threading.Event | None = None
    """Nothing is answered until it is set."""
    contexts: Sequence[PresentationContext] = tuple(AllStoragePresentationContexts)
    received: list[str] = field(default_factory=list)
    """SOP Instance UIDs of what was taken."""
    data: list[bytes] = field(default_factory=list)
    """The data sets of all that came, as they came."""
    associations: int = 0
    server: ThreadedAssociationServer | None = None

    def start(self, known_titles: Sequence[str] = (), name: str = "pacs", **rules: object) -> Destination:
        """Listen, and return a node's destination; only `known_titles` may call, by default anyone."""
        ae = AE(ae_title="PACS")
        ae.require_calling_aet = list(known_titles)
        ae.supported_contexts = list(self.contexts)
        self.server = listen(ae, (evt.EVT_C_STORE, self._store), (evt.EVT_ESTABLISHED, self._established))
        port = self.server.server_address[1]
        address = {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port}
        return Destination.model_validate(address | rules)

    def stop(self) -> None:
        """Close the port."""
        if self.mute:
            self.mute.set()
        if self.server:
            self.server.shutdown()
            self.server = None

    def _established(self, event: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> Dataset:
        if self.mute:
            self.mute.wait(60)
        if self.abort:
            event.assoc.abort()
        self.data.append(event.encoded_dataset(include_meta=False))
        answer = Dataset()
        answer.Status = self.answers.pop(0) if self.answers else 0x0000
        if answer.Status:
            answer.ErrorComment = "as told"
        else:
            self.received.append(str(event.dataset.SOPInstanceUID))
        return answer
