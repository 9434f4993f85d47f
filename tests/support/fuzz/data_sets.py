"""Arbitrary data sets: an X-ray whose attributes are absent, of other VRs, of any value, or nested.

As a program it takes how many of them to try, a seed and a folder.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag

from pacs_node.analyze import decode
from pacs_node.receive import admission
from pacs_node.report import source
from support.fuzz import files, fuzz_bench
from support.odd_inputs.corpus import as_bytes, xray

READ = (
    *admission.HEADER,
    *decode.REQUIRED,
    *decode.KEY_ATTRIBUTES,
    *decode.KEY_SEQUENCES,
    *source.TYPE_2,
    *("AnatomicRegionSequence", "BurnedInAnnotation", "FrameLaterality", "HighBit", "ImageLaterality"),
    *("ImagerPixelSpacing", "InstanceNumber", "IssuerOfPatientID", "Laterality", "LossyImageCompression"),
    *("LossyImageCompressionMethod", "LossyImageCompressionRatio", "ManufacturerModelName", "NumberOfFrames"),
    *("OtherPatientIDsSequence", "PatientAge", "PatientComments", "PatientOrientation", "PixelSpacing"),
    *("PlanarConfiguration", "ProcedureCodeSequence", "RequestAttributesSequence", "SeriesNumber"),
    *("SharedFunctionalGroupsSequence", "StationName", "StudyDescription", "TimezoneOffsetFromUTC"),
    *("ViewPosition", "CodeValue", "CodeMeaning", "LUTDescriptor", "LUTData", "LongCodeValue"),
)
"""What the node reads of a file, and some of what highdicom copies."""
TAGS = sorted({int(Tag(keyword)) for keyword in READ})
CHARACTERS = st.characters(codec="utf-8") | st.sampled_from("\\^=\x1b\0/ .-+eE0123456789")


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """An element in Explicit VR Little Endian with any value (PS3.5 7.1.2)."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in files.LONG_VRS:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value) & 0xFFFF) + value[:0xFFFF]


@cache
def base() -> tuple[bytes, dict[int, bytes]]:
    """The original X-ray: preamble and file meta, and its elements by tag."""
    data = as_bytes(xray())
    known = files.elements(data)
    made = {}
    for item in known:
        group, number = struct.unpack_from("<HH", data, item.start)
        made[group << 16 | number] = data[item.start : item.end]
    return data[: known[0].start], made


VALUES = st.one_of(
    st.sampled_from(files.ODD_TEXTS),
    st.text(CHARACTERS, max_size=80).map(lambda text: text.encode("utf-8", "replace")),
    st.text(CHARACTERS, max_size=20).map(lambda text: text.encode("latin-1", "replace")),
    st.floats().map(lambda number: f"{number:.10g}".encode()),
    st.integers(-(2**40), 2**40).map(lambda number: str(number).encode()),
    st.sampled_from(files.ODD_NUMBERS).map(lambda number: struct.pack("<H", number)),
    st.lists(st.integers(0, 0xFFFF), max_size=5).map(lambda many: struct.pack(f"<{len(many)}H", *many)),
    st.binary(max_size=30),
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 2) -> tuple[int, bytes]:
    """A tag and its element: mostly those that the node reads, in the right VR."""
    tag = draw(st.sampled_from(TAGS) | st.integers(0x00080000, 0x7FE0000F))
    try:
        known = dictionary_VR(tag)[:2].encode()
    except KeyError:
        known = b"UN"
    vr = draw(st.sampled_from((known, known, known, *files.VRS)))
    if vr != b"SQ":
        value = draw(VALUES)
        return tag, element(tag, vr, value + b" " * (len(value) % 2))
    inner = draw(st.lists(st.lists(elements(depth - 1), max_size=4), max_size=3)) if depth else []
    items = [b"".join(data for _, data in sorted(item)) for item in inner]
    return tag, element(
        tag, b"SQ", b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    )


@st.composite
def any_file(draw: st.DrawFn) -> bytes:
    """A file: the X-ray with some elements removed, replaced or added."""
    head, known = base()
    absent = draw(st.lists(st.sampled_from(sorted(known)), max_size=4))
    made = {tag: data for tag, data in known.items() if tag not in absent}
    made |= dict(draw(st.lists(elements(), max_size=6)))
    order = sorted(made) if draw(st.integers(0, 9)) else draw(st.permutations(sorted(made)))
    return head + b"".join(made[tag] for tag in order)


def main() -> None:
    """Try data sets; the smallest one that fails is left in the folder as failing.dcm."""
    count, number, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    fuzz_bench.quiet()
    node, outcomes = fuzz_bench.FuzzBench(folder / "node"), Counter[str]()

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(any_file())
    def has_its_answer(content: bytes) -> None:
        outcome = node.run([content])
        outcomes.update(outcome.files)
        if outcome.wrong:
            (folder / "failing.dcm").write_bytes(content)
        assert not outcome.wrong, outcome.wrong

    try:
        has_its_answer()
    finally:
        sys.stdout.write(", ".join(f"{what} {count}" for what, count in sorted(outcomes.items())) + "\n")


if __name__ == "__main__":
    main()
