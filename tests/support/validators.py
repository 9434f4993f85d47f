"""Independent DICOM validators run on the node's files, and the findings that are allowed.

Each function returns the problems that a validator has with a file, without those that `ALLOWED` explains.
They need the programs in `PROGRAMS`; a test that calls them asks the `tool` fixture for those first.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pydicom import dcmread

PROGRAMS = ("dciodvfy", "dcentvfy", "dsrdump", "dsr2html", "java")
PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")

ALLOWED = {
    # DeviceUID (0018,1002) is of the General Equipment module (PS3.3 C.7.5.1), which dicom3tools has older.
    r"Warning - Attribute is not present in standard DICOM IOD - \(0x0018,0x1002\) UI Device UID",
    r"Warning - Dicom dataset contains attributes not present in standard DICOM IOD - "
    r"this is a Standard Extended SOP Class",
    # Type 2C: it is empty because the source states no side, or contradicts itself.
    r"Warning - is only permitted to be empty when actually unknown; should be absent \(not empty\) if an "
    r"unpaired body part, and have a value if a paired body part - attribute <Laterality>",
    # dcentvfy takes AccessionNumber for one of the series where RequestAttributesSequence could hold it.
    r"Warning - Different information entities for attribute - Element=<AccessionNumber> "
    r"IE <\w+> versus <\w+> for file <[^>]*> versus <[^>]*>",
    # What the source does not state, or states oddly, is taken over as it is.
    r"Warning - Missing attribute or value that would be needed to build DICOMDIR - "
    r"(Patient ID|Study Date|Study Time|Study ID|Instance Number)",
    r"Warning - Value dubious for this VR - \(0x\w+,0x\w+\) PN [\w' ]+  PN \[1\] = <.*> - "
    r"Retired Person Name form",
    r"Warning - Unrecognized defined term <.*> for value 1 of attribute <Body Part Examined>",
    # Type 2: our objects have it, if only empty, also where the source breaks the rule.
    r"Warning - Attribute present in one instance but not the other - Element="
    r"<(PatientName|PatientID|PatientBirthDate|PatientSex|StudyDate|StudyTime|StudyID|AccessionNumber"
    r"|ReferringPhysicianName)> IE=<\w+> for file .*",
    # dcmtk 3.6.7 cannot check the values of these character sets, and says so.
    r"W: The VR checker does not support this Specific Character Set: .*",
    r"W: Reading unknown/unsupported SpecificCharacterSet \(\\ISO 2022 IR (58|87|149)\)",
    # TID 1500 and TID 1501 are extensible: the summary, and present or absent as the value of the finding.
    r'Warning: [\d.]+: /CONTAINER \(126000,DCM,"Imaging Measurement Report"\)/TEXT \(121111,DCM,"Summary"\): '
    r"Content Item not in template",
    r'Warning: [\d.]+: /CONTAINER \(126000,DCM,"Imaging Measurement Report"\)/CONTAINER '
    r'\(126010,DCM,"Imaging Measurements"\)/CONTAINER \(125007,DCM,"Measurement Group"\)/CODE '
    r'\(125605004,SCT,"Fracture of bone"\): Content Item not in template',
    # TID 2000 and TID 2002 are extensible, too: a failure report says in a code that nothing succeeded.
    r'Warning: [\d.]+: /CONTAINER \(18748-4,LN,"Diagnostic Imaging Report"\)/CONTAINER '
    r'\(121072,DCM,"Impressions"\)/CODE \(111017,DCM,"CAD Processing and Findings Summary"\): '
    r"Content Item not in template",
}
"""Patterns of whole lines, each with its reason."""

_PROGRESS = re.compile(
    r"Found \w+ IOD|Found Root Template \w+ \(\w+\)|Root Template Validation Complete|IOD validation complete"
    r"|SCImage|ComprehensiveSR|Comprehensive3DSR"
)


def dciodvfy(path: Path) -> list[str]:
    """dicom3tools: the attributes of the IOD and their values."""
    return _problems(["dciodvfy", str(path)])


def dcentvfy(*paths: Path) -> list[str]:
    """dicom3tools: whether patient, study and series agree between the files."""
    return _problems(["dcentvfy", *map(str, paths)])


def dsrdump(path: Path) -> list[str]:
    """dcmtk: the standard error and exit status of reading the report."""
    done = subprocess.run(["dsrdump", str(path)], capture_output=True, check=False)
    return _unexplained(done.stderr.decode(errors="replace")) + (
        [f"exit status {done.returncode}"] if done.returncode else []
    )


def dsr2html(path: Path) -> str:
    """dcmtk: the report as a page of HTML. Raises CalledProcessError where it cannot be made."""
    command = ["dsr2html", "+U8", str(path)]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode("utf-8")


def pixelmed(path: Path, *options: str) -> list[str]:
    """PixelMed's SR validator: IOD and templates. On Java 17 it needs the limits of XPath lifted."""
    limits = [f"-Djdk.xml.xpath{limit}Limit=0" for limit in ("TotalOp", "ExprOp", "ExprGrp")]
    validator = ["-cp", str(PIXELMED_JAR), "com.pixelmed.validate.DicomSRValidator"]
    command = ["java", *limits, *validator, *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "IOD validation complete" not in done.stdout + done.stderr:
        return [f"the validator did not finish: {done.stdout} {done.stderr}"]
    return _unexplained(done.stdout + done.stderr)


def problems(path: Path) -> list[str]:
    """All problems of one file: an SR goes through all validators, anything else through dciodvfy."""
    problems_ = dciodvfy(path)
    if dcmread(path, specific_tags=["Modality"]).Modality == "SR":
        problems_ += dsrdump(path) + pixelmed(path, "-checkcontentitemorder")
    return problems_


def _problems(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, check=False)
    return _unexplained((done.stdout + done.stderr).decode(errors="replace"))


def _unexplained(output: str) -> list[str]:
    lines = [line.strip() for line in output.splitlines()]
    return [
        line
        for line in lines
        if line and not _PROGRESS.fullmatch(line) and not any(re.fullmatch(a, line) for a in ALLOWED)
    ]
