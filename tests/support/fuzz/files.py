"""Damaged files: those of the corpus and of real devices, mutated from a seed.

Mutations are drawn by `random.Random(f"{seed}-{number}")`, so that these two numbers reproduce a case. Bits
flip; bytes are removed, added and swapped; values, lengths, VRs and tags of elements change; the head of one
file continues with the tail of another.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.uid import DeflatedExplicitVRLittleEndian

import support.odd_inputs.table as table
from pacs_node.dicom.reading import parsing
from pacs_node.errors import InputError

LARGEST_SEED = 4 << 20
TOO_SLOW = {"60 megapixels", "deflated bomb", "deflated, large", "RLE that goes on"}
"""Cases of the corpus that take seconds each as they are."""
REAL_PART = 0.08
"""How many cases begin with a real device's file: their images are a hundred times the corpus'."""
HEADER = 3000
"""So far from the start is the header of most seeds."""
ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 31, 32, 64, 255, 256, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
ODD_LENGTHS = (
    0,
    1,
    2,
    3,
    7,
    8,
    0xFF,
    0xFFFE,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
SHORT_VRS = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US ZZ".split()
VRS = (*LONG_VRS, *SHORT_VRS, b"\0\0", b"\xff\xff")
ODD_TEXTS = (
    *(b"", b" ", b"\0", b"\\", b"\\\\\\", b"^^^^", b"=", b"a=b=c=d", b"-1", b"0", b"1e400", b"NaN", b"-inf"),
    *(
        b"99999999999999999999",
        b"1.",
        b"1..2",
        b".1",
        b"1.2.3",
        b"1.02.3",
        b"../../etc/passwd",
        b"%s%n",
        b"A" * 65,
    ),
    *(b"\x1b$B$3\x1b(B", b"\x1b", b"\x1b$)C\xff\xff", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"20269999"),
    *(b"ISO_IR 192", b"ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"GB18030", b"utf-7", b"rot13", b"MONOCHROME1"),
    *(b"RGB", b"YBR_FULL_422", b"YBR_RCT", b"PALETTE COLOR", b"SIGMOID", b"INVERSE", b"DERIVED\\SECONDARY"),
    *(b"A" * 1000, b"0\\0", b"1\\1\\1\\1", b"1\\a", b"\r\n\t", b"<b>&amp;", b"\x00A", b"x" * 200 + b"\\1"),
)


@dataclass(frozen=True, slots=True)
class Seed:
    """A file to mutate."""

    name: str
    data: bytes
    real: bool


@dataclass(frozen=True, slots=True)
class Element:
    """The offsets of an element in the file: tag, VR and length, then its value."""

    start: int
    value: int
    end: int
    explicit: bool


def seeds(real: Path | None) -> list[Seed]:
    """The files of the corpus, and those of real devices in a folder."""
    made = [
        Seed(f"{name} {number}", content, False)
        for name, case in table.cases().items()
        if name not in TOO_SLOW
        for number, content in enumerate(case.contents())
        if 200 < len(content) < LARGEST_SEED
    ]
    files = sorted(real.glob("*.dcm")) if real else []
    return made + [Seed(path.name, path.read_bytes(), True) for path in files]


def case(seed: str, number: int, begin: Sequence[Seed]) -> tuple[str, list[bytes]]:
    """The mutation's name, and the files of one study: mostly one, sometimes two versions of one."""
    dice = Random(f"{seed}-{number}")
    real = [chosen for chosen in begin if chosen.real]
    made = [chosen for chosen in begin if not chosen.real]
    source = dice.choice(real if real and dice.random() < REAL_PART else made)
    changes, contents = [source.name], []
    for _ in range(2 if dice.random() < 0.05 else 1):
        data = source.data
        for _ in range(dice.choice((1, 1, 1, 2, 3, 5))):
            change = dice.choice(CHANGES)
            data = change(dice, data, made)
            changes.append(change.__name__)
        contents.append(data)
    return ", ".join(changes), contents


def elements(data: bytes) -> list[Element]:
    """The elements of the data set in file order, as far as they can be read."""
    known: list[Element] = []
    with suppress(InputError), parsing(lambda error: InputError(str(error))):
        dataset = dcmread(BytesIO(data))
        if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return []
        raw = [dataset.get_item(tag) for tag in dataset.keys()]  # noqa: SIM118 - its values would be converted
        for element in raw:
            if isinstance(element, RawDataElement):
                long = not element.is_implicit_VR and str(element.VR).encode() in LONG_VRS
                value = element.value_tell
                end = value + (element.length if element.length != 0xFFFFFFFF else len(element.value or b""))
                known.append(Element(value - (12 if long else 8), value, end, not element.is_implicit_VR))
    return [chosen for chosen in known if 0 <= chosen.start < chosen.value <= chosen.end <= len(data)]


Change = Callable[[Random, bytes, Sequence[Seed]], bytes]


def place(dice: Random, data: bytes) -> int:
    """A random offset in the file, in its header or at the start of the pixel data, with equal chances."""
    pixels = data.rfind(b"\xe0\x7f\x10\x00", 0, len(data))
    spans = [(0, len(data)), (132, min(HEADER, len(data)))]
    if pixels > 0:
        spans.append((pixels, min(pixels + 300, len(data))))
    first, last = dice.choice(spans)
    return dice.randrange(first, max(last, first + 1))


def flip_bits(dice: Random, data: bytes, _seeds: Sequence[Seed]) -> bytes:
    made = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8, 50))):
        at = min(place(dice, data), len(made) - 1)
        if at >= 0:
            made[at] ^= 1 << dice.randrange(8)
    return bytes(made)


def set_bytes(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    at, count = place(dice, data), dice.choice((1, 2, 4, 8, 100))
    fill = dice.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\\", b"\x1b", dice.randbytes(1)))
    return data[:at] + fill * len(data[at : at + count]) + data[at + count :]


def cut_end(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    return data[: place(dice, data)]


def take_out(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    at, count = place(dice, data), dice.choice((1, 2, 3, 4, 8, 16, 100, 5000))
    return data[:at] + data[at + count :]


def put_in(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    at, count = place(dice, data), dice.choice((1, 2, 3, 4, 8, 16, 100, 5000))
    return data[:at] + dice.choice((b"\0" * count, b"\xff" * count, dice.randbytes(count))) + data[at:]


def repeat(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    at, count = place(dice, data), dice.choice((4, 8, 64, 500, 5000))
    return data[:at] + data[at : at + count] * dice.choice((2, 3, 20)) + data[at + count :]


def go_on_as_another(dice: Random, data: bytes, others: Sequence[Seed]) -> bytes:
    other = dice.choice(others).data
    here, there = place(dice, data), place(dice, other)
    return data[:here] + other[there:]


def swap_elements(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    known = elements(data)
    if len(known) < 2:
        return data
    chosen, other = sorted(dice.sample(known, 2), key=lambda element: element.start)
    parts = data[chosen.start : chosen.end], data[other.start : other.end]
    return data[: chosen.start] + parts[1] + data[chosen.end : other.start] + parts[0] + data[other.end :]


def swap_values(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    """Swap the values and lengths of two elements with the same form of header."""
    known = elements(data)
    if len(known) < 2:
        return data
    chosen, other = sorted(dice.sample(known, 2), key=lambda element: element.start)
    first, second = data[chosen.value : chosen.end], data[other.value : other.end]
    middle = data[chosen.end : other.start]
    return (
        data[: chosen.start]
        + _with_length(data, chosen, len(second))
        + second
        + middle
        + _with_length(data, other, len(first))
        + first
        + data[other.end :]
    )


def drop_element(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    known = elements(data)
    if not known:
        return data
    chosen = dice.choice(known)
    return data[: chosen.start] + data[chosen.end :]


def double_element(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    known = elements(data)
    if not known:
        return data
    chosen, at = dice.choice(known), dice.choice(known).start
    return data[:at] + data[chosen.start : chosen.end] + data[at:]


def odd_value(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    known = [element for element in elements(data) if element.end - element.value < 2000]
    if not known:
        return data
    chosen = dice.choice(known)
    number = struct.pack(dice.choice(("<H", ">H", "<I", "<d")), dice.choice(ODD_NUMBERS))
    value = dice.choice((dice.choice(ODD_TEXTS), number, dice.randbytes(dice.randrange(20))))
    value += b" " * (len(value) % 2 and dice.random() < 0.8)
    return data[: chosen.start] + _with_length(data, chosen, len(value)) + value + data[chosen.end :]


def odd_number(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    """Change one of the numbers that describe the pixels (group 0028, US)."""
    known = [
        chosen for chosen in elements(data) if data[chosen.start : chosen.start + 2] in (b"\x28\0", b"\0\x28")
    ]
    known = [chosen for chosen in known if chosen.end - chosen.value == 2]
    if not known:
        return data
    chosen = dice.choice(known)
    order = ">H" if data[chosen.start] == 0 else "<H"
    return data[: chosen.value] + struct.pack(order, dice.choice(ODD_NUMBERS)) + data[chosen.end :]


def odd_length(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    known = elements(data)
    if not known:
        return data
    chosen = dice.choice(known)
    length = dice.choice((*ODD_LENGTHS, *(chosen.end - chosen.value + off for off in (-2, -1, 1, 2, 8))))
    return data[: chosen.start] + _with_length(data, chosen, length) + data[chosen.value :]


def odd_vr(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    known = [element for element in elements(data) if element.explicit]
    if not known:
        return data
    at = dice.choice(known).start + 4
    return data[:at] + dice.choice(VRS) + data[at + 2 :]


def odd_tag(dice: Random, data: bytes, _: Sequence[Seed]) -> bytes:
    known = elements(data)
    if not known:
        return data
    at = dice.choice(known).start
    tag = dice.choice(
        (data[(chosen := dice.choice(known)).start : chosen.start + 4], dice.randbytes(4), b"\xfe\xff\r\xe0")
    )
    return data[:at] + tag + data[at + 4 :]


CHANGES: tuple[Change, ...] = (
    *(flip_bits, flip_bits, set_bytes, cut_end, take_out, put_in, repeat, go_on_as_another, swap_elements),
    *(
        swap_values,
        drop_element,
        double_element,
        odd_value,
        odd_value,
        odd_number,
        odd_length,
        odd_vr,
        odd_tag,
    ),
)


def _with_length(data: bytes, element: Element, length: int) -> bytes:
    """The element's tag and VR with another length, truncated to its field."""
    long = not element.explicit or element.value - element.start == 12
    form, most = ("I", 0xFFFFFFFF) if long else ("H", 0xFFFF)
    size = struct.calcsize(form)
    return data[element.start : element.value - size] + struct.pack(f"<{form}", max(0, length) & most)
