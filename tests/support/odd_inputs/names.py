"""Patient's names in many alphabets, rightly and wrongly declared."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import FileDataset

from support.odd_inputs.corpus import Case, as_bytes, xray

NAME = "PatientName"
GROUP = "Anastasia-Wilhelmina^Bartholomaea-Konstantina^Clementine^Dr^Prof"
PNS = "PS3.5 H, PS3.3 C.12.1.1.2"


def named(charset: str | list[str] | None, name: bytes | str) -> Callable[[], FileDataset]:
    """The phantom with this name, text or bytes, declared in this character set (PS3.3 C.12.1.1.2)."""

    def make() -> FileDataset:
        made = xray(SpecificCharacterSet=charset, StudyDescription="Wrist")
        if isinstance(name, bytes):
            # Written as they are: no encoder of ours between.
            made.PatientName = "x" * len(name)
            data = as_bytes(made)
            plain = b"PN" + len(name + b" " * (len(name) % 2)).to_bytes(2, "little")
            at = data.index(b"\x10\0\x10\0" + plain) + 8
            return data[:at] + name + data[at + len(name) :]  # type: ignore[return-value]
        made.PatientName = name
        return made

    return make


CASES = {
    "Names and alphabets": [
        Case(
            "ISO 2022 Japanese",
            f"{PNS}.3",
            named(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ),
        Case(
            "ISO 2022 Japanese with half-width letters",
            f"{PNS}.3",
            named(["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ),
        Case(
            "ISO 2022 Korean",
            PNS.replace("H", "I"),
            named(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ),
        Case("Chinese GB18030", PNS.replace("H", "J"), named("GB18030", "Wang^XiaoDong=王^小东")),
        Case("Chinese GBK", PNS.replace("H", "J"), named("GBK", "Wang^XiaoDong=王^小东"), invalid=(NAME,)),
        Case(
            "Chinese ISO 2022", PNS.replace("H", "K"), named(["", "ISO 2022 IR 58"], "Zhang^XiaoDong=张^小东")
        ),
        Case("Cyrillic", "ISO_IR 144", named("ISO_IR 144", "Люкceмбypг")),
        Case("Arabic", "ISO_IR 127", named("ISO_IR 127", "قباني^لنزار")),
        Case("Hebrew", "ISO_IR 138", named("ISO_IR 138", "שרון^דבורה")),
        Case("Greek", "ISO_IR 126", named("ISO_IR 126", "Διονυσιος")),
        Case("Thai", "ISO_IR 166", named("ISO_IR 166", "สมชาย^ใจดี")),
        Case("Latin-2", "ISO_IR 101", named("ISO_IR 101", "Wałęsa^Łucja")),
        Case("UTF-8", "ISO_IR 192", named("ISO_IR 192", "Wang^XiaoDong=王^小东")),
        Case("UTF-8 beyond 16 bits", "ISO_IR 192", named("ISO_IR 192", "𠮷野^家")),
        Case(
            "no character set, Latin-1 all the same",
            "the default is ASCII; the bytes go back as they came",
            named(None, b"M\xfcller^Eva"),
            invalid=(NAME,),
        ),
        Case(
            "no character set, UTF-8 all the same",
            "the default is ASCII; the bytes go back as they came",
            named(None, "Müller^Eva".encode()),
            invalid=(NAME,),
        ),
        Case(
            "Latin-1 declared, UTF-8 meant",
            "wrong declaration; the bytes go back as they came",
            named("ISO_IR 100", "Müller^Eva".encode()),
            invalid=(NAME,),
        ),
        Case(
            "UTF-8 declared, Latin-1 meant",
            "wrong declaration; the bytes go back as they came",
            named("ISO_IR 192", b"M\xfcller^Eva"),
            invalid=(NAME,),
        ),
        Case(
            "Japanese, cut in an escape",
            "a broken escape sequence",
            named(["", "ISO 2022 IR 87"], b"Yamada^Tarou=\x1b$B;3ED^\x1b"),
            invalid=(NAME,),
        ),
        Case(
            "unknown character set",
            "ISO_IR 999",
            named("ISO_IR 999", b"Doe^Jane"),
            invalid=(NAME, "SpecificCharacterSet"),
        ),
        Case(
            "character set that is none",
            "rot13, a codec of Python's; it stopped the report",
            lambda: as_bytes(named("ISO_IR 999", b"M\xfcller^Eva")()).replace(b"ISO_IR 999", b"rot13     "),
            invalid=(NAME, "SpecificCharacterSet"),
        ),
        Case(
            "character set in another spelling",
            "ISO-IR 100",
            named("ISO-IR 100", b"M\xfcller^Eva"),
            invalid=(NAME, "SpecificCharacterSet"),
        ),
        Case(
            "names of 64 characters in three groups",
            "the longest (PS3.5 6.2 PN)",
            named("ISO_IR 192", "=".join([GROUP, "王" * 64, "山" * 64])),
            invalid=(NAME,),
        ),
        Case(
            "names of 500 characters",
            "longer than allowed",
            named("ISO_IR 192", "Doe^" + "Jane" * 124),
            invalid=(NAME,),
        ),
        Case(
            "names of six components",
            "there are five (PS3.5 6.2 PN)",
            named("ISO_IR 192", "a^b^c^d^e^f"),
            invalid=(NAME,),
        ),
        Case("one-word name", "no caret (PS3.5 6.2 PN)", named("ISO_IR 192", "Cher")),
        Case("a name of carets", "nothing between them", named("ISO_IR 192", "^^^^")),
    ],
}
