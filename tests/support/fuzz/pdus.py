"""Malformed conversations with a storage SCP, mutated from a valid one by a seed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from support.fuzz import files

REQUEST, ACCEPT, REJECT, DATA, RELEASE, RELEASED, ABORT = range(1, 8)
ABORT_PDU = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"
ODD_LENGTHS = (0, 1, 2, 3, 4, 5, 6, 67, 68, 0xFFFF, 0x10000, 0x100001, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


COMMANDS = (0, 1, 0x8001, 0x10, 0x20, 0x21, 0x30, 0x8030, 0x100, 0x110, 0x120, 0x130, 0x140, 0x150, 0xFFF)
"""C-STORE to N-DELETE, C-CANCEL, some answers, and none (PS3.7 E.1)."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The pieces that a peer sends, and how it ends the connection."""

    what: str
    pieces: tuple[bytes, ...]
    waits: bool
    """Whether it waits for an answer after the first piece."""
    end: str
    """close, reset, abort, or wait: until the other side hangs up."""


def stream(seed: str, number: int, recorded: Sequence[bytes]) -> Stream:
    """The conversation of this number, always the same for one seed and recording."""
    dice = Random(f"{seed}-{number}")
    pdus = list(recorded)
    changes = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        change = dice.choice(CHANGES)
        pdus = change(dice, pdus)
        changes.append(change.__name__)
    pieces = tuple(_torn(dice, pdus) if dice.random() < 0.15 else pdus)
    end = dice.choice(("close", "close", "close", "reset", "abort", "wait"))
    return Stream(", ".join(changes), pieces, dice.random() < 0.7, end)


Change = Callable[[Random, list[bytes]], list[bytes]]


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU (PS3.8 9.3), whose stated length may be wrong."""
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def noise(dice: Random, pdus: list[bytes]) -> list[bytes]:
    made = dice.randbytes(dice.choice((1, 5, 6, 7, 100, 5000)))
    return dice.choice(([made], [*pdus[:1], made], [*pdus[:2], made, *pdus[2:]]))


def noise_in_a_pdu(dice: Random, pdus: list[bytes]) -> list[bytes]:
    made = pdu(dice.randrange(10), dice.randbytes(dice.choice((0, 1, 4, 68, 74, 500))))
    return dice.choice(([made], [*pdus[:1], made, *pdus[1:]], [*pdus[:2], made, *pdus[2:]]))


def flip_bits(dice: Random, pdus: list[bytes]) -> list[bytes]:
    made = [bytearray(data) for data in pdus]
    for _ in range(dice.choice((1, 1, 2, 8))):
        chosen = dice.choice(made)
        if chosen:
            chosen[dice.randrange(min(len(chosen), dice.choice((6, 120, len(chosen)))))] ^= (
                1 << dice.randrange(8)
            )
    return [bytes(data) for data in made]


def wrong_length(dice: Random, pdus: list[bytes]) -> list[bytes]:
    number = dice.randrange(len(pdus))
    chosen = pdus[number]
    real = max(0, len(chosen) - 6)
    length = dice.choice((*ODD_LENGTHS, real + 1, max(0, real - 1), real + 2, max(0, real - 6)))
    return [*pdus[:number], chosen[:2] + struct.pack(">L", length) + chosen[6:], *pdus[number + 1 :]]


def flood(dice: Random, pdus: list[bytes]) -> list[bytes]:
    """A PDU that claims 4 GB and continues for a while."""
    kind, count = dice.choice((REQUEST, DATA)), dice.choice((1, 10, 40))
    head = [] if kind == REQUEST else pdus[:1]
    return [*head, pdu(kind, b"", 0xFFFFFFFF), *[b"\0" * 65536] * count]


def items(request: bytes) -> tuple[bytes, list[bytes]]:
    """The fixed part of an A-ASSOCIATE-RQ, and its variable items (PS3.8 9.3.2)."""
    fixed, rest, parts = request[:74], request[74:], []
    while len(rest) >= 4:
        size = 4 + struct.unpack_from(">H", rest, 2)[0]
        parts.append(rest[:size])
        rest = rest[size:]
    return fixed, parts


def change_items(dice: Random, pdus: list[bytes]) -> list[bytes]:
    """Change number, order, length or nesting of the request's items, mostly of presentation contexts."""
    if len(pdus[0]) < 80:
        return pdus
    fixed, parts = items(pdus[0])
    contexts = [item for item in parts if item[:1] == b"\x20"] or [b"\x20\0\0\0"]
    kind = dice.choice(("drop", "double", "many", "shuffle", "length", "id", "empty", "deep", "long", "flip"))
    if kind == "drop" and parts:
        parts.pop(dice.randrange(len(parts)))
    elif kind == "double" and parts:
        parts.append(dice.choice(parts))
    elif kind == "many":
        parts += [
            item[:4] + bytes([number & 255]) + item[5:] for number in range(300) for item in contexts[:1]
        ]
    elif kind == "shuffle":
        dice.shuffle(parts)
    elif kind == "empty":
        parts.append(bytes([dice.randrange(256)]) + b"\0\0\0")
    elif kind == "long":
        parts.append(struct.pack(">BBH", dice.choice((0x10, 0x20, 0x50)), 0, 0xFFFF) + b"1" * 0xFFFF)
    elif parts:
        number = dice.randrange(len(parts))
        chosen = bytearray(parts[number])
        if kind == "length":
            chosen[2:4] = struct.pack(">H", dice.choice(ODD_LENGTHS) & 0xFFFF)
        elif kind == "id":
            chosen[4:5] = bytes([dice.choice((0, 2, 255, 128, dice.randrange(256)))])
        elif kind == "deep":
            at = dice.randrange(min(4, len(chosen)), len(chosen) + 1)
            chosen[at:at] = dice.choice(contexts)
            chosen[2:4] = struct.pack(">H", min(0xFFFF, len(chosen) - 4))
        elif len(chosen) > 4:
            chosen[dice.randrange(4, len(chosen))] = dice.randrange(256)
        parts[number] = bytes(chosen)
    body = fixed[6:] + b"".join(parts)
    return [pdu(REQUEST, body), *pdus[1:]]


def change_pdvs(dice: Random, pdus: list[bytes]) -> list[bytes]:
    """Change lengths, contexts and control headers of presentation data values (PS3.8 E)."""
    at = _values(pdus)
    if not at:
        return pdus
    number = dice.choice(at)
    value = pdus[number][12:]
    context, control, length = pdus[number][10], pdus[number][11], len(value) + 2
    kind = dice.choice(("length", "context", "control", "empty", "pieces", "twice", "claims"))
    if kind == "length":
        length = dice.choice((*ODD_LENGTHS, length + 1, length - 1, length - 2))
    elif kind == "context":
        context = dice.choice((0, 2, 3, 5, 255, dice.randrange(256)))
    elif kind == "control":
        control = dice.choice((0, 1, 2, 3, 4, 255, dice.randrange(256)))
    elif kind == "empty":
        value, length = b"", 2
    elif kind == "claims":
        return [*pdus[:number], pdu(DATA, struct.pack(">L", dice.choice(ODD_LENGTHS))), *pdus[number + 1 :]]
    pdv = struct.pack(">LBB", length & 0xFFFFFFFF, context, control) + value
    if kind == "twice":
        pdv += pdv
    if kind == "pieces":
        size = dice.choice((1, 2, 7, 64))
        pieces = [value[start : start + size] for start in range(0, min(len(value), 600), size)]
        last = len(pieces) - 1
        made = [
            struct.pack(">LBB", len(piece) + 2, context, control if place == last else control & 1) + piece
            for place, piece in enumerate(pieces)
        ]
        made = [pdu(DATA, b"".join(made))] if dice.random() < 0.5 else [pdu(DATA, piece) for piece in made]
        return [*pdus[:number], *made, *pdus[number + 1 :]]
    return [*pdus[:number], pdu(DATA, pdv), *pdus[number + 1 :]]


def change_command(dice: Random, pdus: list[bytes]) -> list[bytes]:
    """Change the command set: another command, other elements, or none (PS3.7 annex E)."""
    at = [number for number in _values(pdus) if len(pdus[number]) > 24 and pdus[number][11] & 1]
    if not at:
        return pdus
    number = dice.choice(at)
    head, value = pdus[number][10:12], pdus[number][12:]
    parts, rest = [], value
    while len(rest) >= 8:
        size = 8 + struct.unpack_from("<L", rest, 4)[0]
        parts.append(rest[:size])
        rest = rest[size:]
    place = dice.randrange(len(parts))
    kind = dice.choice(("drop", "double", "value", "length", "number", "shuffle"))
    if kind == "drop":
        parts.pop(place)
    elif kind == "double":
        parts += [parts[place]] * dice.choice((1, 1000))
    elif kind == "shuffle":
        dice.shuffle(parts)
    elif kind == "length":
        parts[place] = parts[place][:4] + struct.pack("<L", dice.choice(ODD_LENGTHS)) + parts[place][8:]
    elif kind == "number":
        code = dice.choice(
            (1, 0x8001, 0x10, 0x20, 0x21, 0x30, 0x8030, 0x100, 0x110, 0x120, 0x130, 0x140, 0xFFF, 0)
        )
        parts = [
            part[:8] + struct.pack("<H", code) if part[:4] == b"\0\0\0\1" and len(part) == 10 else part
            for part in parts
        ]
    else:
        odd = dice.choice(files.ODD_TEXTS) if dice.random() < 0.7 else dice.randbytes(8)
        parts[place] = parts[place][:4] + struct.pack("<L", len(odd)) + odd
    made = head + b"".join(parts)
    return [*pdus[:number], pdu(DATA, struct.pack(">L", len(made)) + made), *pdus[number + 1 :]]


def change_data(dice: Random, pdus: list[bytes]) -> list[bytes]:
    """Damage the data set as files are damaged, in well-formed PDUs."""
    at = [
        number
        for number, data in enumerate(pdus)
        if data[:1] == b"\x04" and len(data) > 12 and not data[11] & 1
    ]
    if not at:
        return pdus
    head, value = pdus[at[0]][10:12], b"".join(pdus[number][12:] for number in at)
    changes = (files.flip_bits, files.set_bytes, files.cut_end, files.take_out)
    made = bytes([head[0], 2]) + dice.choice(changes)(dice, value, ())
    return [*pdus[: at[0]], pdu(DATA, struct.pack(">L", len(made)) + made), *pdus[at[-1] + 1 :]]


def other_order(dice: Random, pdus: list[bytes]) -> list[bytes]:
    made = list(pdus)
    kind = dice.choice(
        ("shuffle", "double", "drop", "request again", "answers", "release first", "abort within")
    )
    if kind == "shuffle":
        dice.shuffle(made)
    elif kind == "double":
        made.insert(dice.randrange(len(made)), dice.choice(made))
    elif kind == "drop":
        made.pop(dice.randrange(len(made)))
    elif kind == "request again":
        made.insert(dice.randrange(1, len(made) + 1), made[0])
    elif kind == "answers":
        body = dice.choice((made[0][6:], b"\0\1\1\1", b"\0\0\0\0", b""))
        made.insert(dice.randrange(len(made) + 1), pdu(dice.choice((ACCEPT, REJECT, RELEASED)), body))
    elif kind == "release first":
        made.insert(min(1, len(made)), pdu(RELEASE, b"\0\0\0\0"))
    else:
        made.insert(dice.randrange(len(made) + 1), ABORT_PDU)
    return made or [b""]


def cut(dice: Random, pdus: list[bytes]) -> list[bytes]:
    number = dice.randrange(len(pdus))
    return [*pdus[:number], pdus[number][: dice.randrange(len(pdus[number]) + 1)]]


CHANGES: tuple[Change, ...] = (
    *(noise, noise_in_a_pdu, flip_bits, flip_bits, wrong_length, flood, change_items, change_items),
    *(change_pdvs, change_pdvs, change_command, change_command, change_data, other_order, cut),
)


def _values(pdus: list[bytes]) -> list[int]:
    """The indices of P-DATA PDUs that are not empty."""
    return [number for number, data in enumerate(pdus) if data[:1] == b"\x04" and len(data) > 12]


def _torn(dice: Random, pdus: list[bytes]) -> list[bytes]:
    """The same bytes split elsewhere; the first PDU stays whole, since its answer may be awaited."""
    data, size = b"".join(pdus[1:]), dice.choice((1, 13, 1000))
    data, rest = data[: size * 400], data[size * 400 :]
    return [*pdus[:1], *(data[at : at + size] for at in range(0, len(data), size)), rest]
