"""All odd inputs, and the document generated from them.

`python -m support.odd_inputs.table` writes docs/inputs.md; a test fails if that is out of date.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from support.odd_inputs import (
    damage,
    device_files,
    encodings,
    fuzz_findings,
    grey,
    headers,
    names,
    pixels,
    shapes,
    studies,
)
from support.odd_inputs.corpus import Case

CHECKOUT = Path(__file__).resolve().parents[3]
DOCUMENT = CHECKOUT / "docs" / "inputs.md"
REAL = "Files of real devices"
HEAD = """# What the node does with odd X-rays

`python -m support.odd_inputs.table`, run in `tests`, writes this page from the cases that the tests build;
the tests hold the node to it. "Analyzed" is followed by the note that goes into the audit log; a skipped file
is stored and its reason recorded; a failed image is named in the report with the reason; a refused file is
answered with the C-STORE status and not stored. A patient's name goes back byte for byte, whatever its bytes
are; in other texts, bytes that are no letters in the declared character set go back as U+FFFD.
"""


def groups(data: Path) -> dict[str, list[Case]]:
    """The cases by group; `data` is the folder of the files of real devices."""
    modules = (
        grey,
        pixels,
        shapes,
        encodings,
        damage,
        headers,
        names,
        studies,
        fuzz_findings,
    )
    made = {name: cases for module in modules for name, cases in module.CASES.items()}
    return made | {REAL: device_files.cases(data)}


def cases() -> dict[str, Case]:
    """The generated cases, by name."""
    return {case.name: case for name, group in groups(Path()).items() if name != REAL for case in group}


FUZZED = """
## How much was fuzzed

`benchmarks/fuzz.py` damages these files and the real ones in `shared/data`, makes data sets that no
device would, and sends nonsense to the DICOM port; each file goes the whole way in a child process,
which it may kill.

Files, `--files 10000 --data-sets 2000 --streams 0 --seed 63`, one run of 804 s in one process on two
cores: 2,989 images analyzed, 5,082 failed, 3,661 refused, 755 skipped, 3 duplicates; no crash, no hang, no
wrong answer, nothing without its audit line. Peak for one file: 117 MB more. The process had 370 MB after
4,500 files and 369 MB after 10,000. Seed 62 before it: none of these either. Seed 60 had found a character
set by which the report failed, and a look at why memory grew by 1.7 MB in every hundred files of its kind
found a decoder that keeps what it cannot decode; both are mended, and that hundred, tried twenty times over,
ended with 311.1 MB each time.

Conversations, `--files 0 --data-sets 0 --streams 12000 --seed 65`, 499 s: 7,151 answered, 3,745 silent, 1,104
hung up; no crash, no hang, a C-ECHO and a C-STORE answered after every fifty. The role ended 12.8 MB larger,
of which the last 3,000 conversations took less than 1 MB; the same 500 eight times over added 0.6 MB in the
last three rounds, and no object that Python knows of."""


def document() -> str:
    """The text of docs/inputs.md."""
    return "\n".join([HEAD, *_lines(), FUZZED]) + "\n"


def _lines() -> Iterator[str]:
    for name, group in groups(Path(os.devnull)).items():
        yield f"\n## {name}\n\n| case | why | what the node does |\n|---|---|---|"
        for case in group:
            yield f"| {_cell(case.name)} | {_cell(case.why)} | {'<br>'.join(map(_cell, case.outcomes))} |"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("...", "…")


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
