"""A PACS, or a network, that stops in the middle: the delivery ends soon, and no thread stays behind."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, evt
from support import phantom
from support.scripted_pacs import listen
from support.wire import wire

from pacs_node.config import Destination
from pacs_node.deliver import dimse
from pacs_node.errors import DeliveryError

pytestmark = pytest.mark.timeout(60)

WaitUntil = Callable[[Callable[[], object], float], None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimse, "ANSWER_SECONDS", 0.5)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = []
    for seed in range(3):
        paths.append(tmp_path / f"{seed}.dcm")
        phantom.dataset(seed, rows=96, columns=80).save_as(paths[-1], enforce_file_format=True)
    return paths


@pytest.fixture
def pacs() -> Iterator[int]:
    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.5.1.4.1.1.1.1")
    server = listen(ae, (evt.EVT_C_STORE, lambda _: 0))
    yield int(server.server_address[1])
    server.shutdown()


def deliver(port: int, images: list[Path]) -> list[int | None]:
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)
    return [outcome.status for outcome in dimse.store(destination, "NODE", images)]


@pytest.fixture
def lengths(pacs: int, images: list[Path]) -> tuple[int, int]:
    """Bytes of the A-ASSOCIATE-AC that answers a delivery of these images, and of the answer to a C-STORE."""
    told: list[int] = []
    handler = (evt.EVT_DATA_RECV, lambda event: told.append(len(event.data)))
    address = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=pacs).address
    assert address is not None
    contexts = dimse.storage_contexts([read_file_meta_info(path) for path in images])
    with dimse.associated("pacs", address, "NODE", contexts, None, [handler]) as association:
        association.send_c_store(images[0])
    return told[0], told[1]


# 3 bytes: inside of the header of the A-ASSOCIATE-AC; 40: inside of its body.
@pytest.mark.parametrize("at", [3, 40])
def test_a_pacs_that_stalls_while_it_accepts(
    pacs: int, images: list[Path], wait_until: WaitUntil, at: int
) -> None:
    before = threading.active_count()
    with wire(pacs, hold_answers_at=at) as line, pytest.raises(DeliveryError):
        deliver(line.port, images)
    wait_until(lambda: threading.active_count() <= before, 10)


# Inside of the header, and inside of the body, of the second answer to a C-STORE.
@pytest.mark.parametrize("into", [2, 30])
def test_a_pacs_that_stalls_in_the_middle_of_an_answer(
    pacs: int, images: list[Path], lengths: tuple[int, int], wait_until: WaitUntil, into: int
) -> None:
    before = threading.active_count()
    with wire(pacs, hold_answers_at=sum(lengths) + into) as line:
        assert deliver(line.port, images) == [0, None, None]
    wait_until(lambda: threading.active_count() <= before, 10)


def test_a_pacs_that_hangs_up_between_two_answers_is_noticed_at_once(
    pacs: int, images: list[Path], lengths: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by the time-out, which would end the test; the race in pynetdicom loses most of such a dozen.
    monkeypatch.setattr(dimse, "ANSWER_SECONDS", 600)
    with wire(pacs, cut_answers_at=sum(lengths)) as line:
        for _ in range(12):
            assert deliver(line.port, images) == [0, None, None]


def test_a_slow_network_is_waited_for(pacs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.dcm"
    phantom.dataset(1, rows=640, columns=480).save_as(path, enforce_file_format=True)
    monkeypatch.setattr(dimse, "SLOWEST", 100_000)
    # 614 KB take 1.5 s, three times as long as an answer may.
    with wire(pacs, bytes_per_second=400_000) as line:
        assert deliver(line.port, [path]) == [0]
