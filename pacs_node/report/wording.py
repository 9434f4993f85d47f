"""What people read first: the outcome, the SeriesDescription and the Summary.

Viewers show little more of a report than its SeriesDescription (LO, 64 characters), so it says the outcome,
the place and how sure. What must be shortened is the place, never the outcome or the percentage.
"""

from __future__ import annotations

from itertools import product

from pacs_node import config
from pacs_node.dicom import anatomy
from pacs_node.records import Finding, ImageResult, Outcome, ReportRequest
from pacs_node.report import source

LONGEST_LO = 64


def outcome(request: ReportRequest) -> Outcome:
    """FAILED where no image was analyzed, POSITIVE where any is positive, else NEGATIVE."""
    findings = [image.finding for image in request.images if image.finding]
    if not findings:
        return Outcome.FAILED
    return Outcome.POSITIVE if any(finding.positive for finding in findings) else Outcome.NEGATIVE


def percent(probability: float) -> str:
    """A probability (0..1) as people read it: "87 %", never the certainty of "0 %" or "100 %"."""
    if probability < 0.01:
        return "<1 %"
    return ">99 %" if probability > 0.99 else f"{probability * 100:.0f} %"


def series_description(request: ReportRequest) -> str:
    """The report in at most 64 characters: "AI: Fracture suspected, left wrist, 87 %"."""
    amended = _amended(request)
    starts = [f"{amended} AI: ", "AMENDED AI: "] if amended else ["AI: "]
    said = outcome(request)
    if said is Outcome.FAILED:
        return f"{starts[0]}NOT ANALYZED"
    if said is Outcome.NEGATIVE:
        head, places, tail = request.model.negative_phrase, [""], ""
    else:
        worst = _worst(request.images)
        head, tail = request.model.positive_phrase, f", {percent(_probability(worst))}"
        part, side = anatomy.body_part(worst.source), source.side(request, worst)
        shorter = [f"{side} {part}" if side else part, part] if part else []
        places = [f", {place}" for place in (_place(request, worst), *shorter)] + [""]
    head = _one_line(head)
    missing = gaps(request)
    counts = f", {', '.join(missing)}"
    ends = [counts, counts.replace("X-rays ", ""), ", INCOMPLETE"] if missing else [""]
    for start, place, end in product(starts, places, ends):
        if len(start + head + place + tail + end) <= LONGEST_LO:
            return start + head + place + tail + end
    rest = tail + ends[-1]
    return starts[-1] + head[: LONGEST_LO - len(starts[-1] + rest)].rstrip(" ,") + rest


def gaps(request: ReportRequest) -> list[str]:
    """How many of the study's X-rays the report says something of, where not of all of them."""
    total, analyzed = len(request.images), sum(image.finding is not None for image in request.images)
    parts = [f"{analyzed} of {total} X-rays analyzed"] if analyzed < total else []
    return parts + ([f"{request.missing_images} NOT RECEIVED"] if request.missing_images else [])


def summary(request: ReportRequest, settings: config.ReportSettings) -> str:
    """The report in a few sentences: outcome, place, image, each side, failures, what it does not mean."""
    said, total = outcome(request), len(request.images)
    failed = sum(image.finding is None for image in request.images)
    names = dict(
        zip((id(image) for image in request.images), source.image_names(request.images), strict=True)
    )
    sentences = [f"{_amended(request)}."] if request.predecessor else []
    if said is Outcome.FAILED:
        sentences.append("AI: NOT ANALYZED.")
        sentences.append(
            f"None of {total} X-rays could be analyzed." if total > 1 else "The X-ray could not be analyzed."
        )
        sentences += _missing(request)
        sentences.append("No statement is made about this study.")
        return " ".join([*sentences, settings.label])
    worst = _worst(request.images)
    if said is Outcome.POSITIVE:
        head = f"AI: {request.model.positive_phrase}, {_place(request, worst)},"
    else:
        head = f"AI: {request.model.negative_phrase}, highest"
    limit = percent(request.model.threshold)
    sentences.append(f"{head} {percent(_probability(worst))} ({names[id(worst)]}; threshold {limit}).")
    sides = _worst_by_side(request)
    if len(sides) > 1:
        each = [
            f"{side} {percent(_probability(image))} ({names[id(image)]})" for side, image in sides.items()
        ]
        sentences.append(f"Highest on each side: {'; '.join(each)}.")
    if said is Outcome.NEGATIVE and not anatomy.body_part(worst.source):
        sentences.append(f"{anatomy.NOT_STATED.capitalize()}.")
    if failed:
        sentences.append(f"{total - failed} of {total} X-rays analyzed, {failed} NOT ANALYZED.")
    sentences += _missing(request)
    if not request.model.scope_limit:
        sentences.append("Whether the model knows images of this kind was not checked.")
    if said is Outcome.NEGATIVE:
        sentences.append(request.model.negative_caveat)
    return " ".join([*sentences, settings.label])


def evaluation(request: ReportRequest, finding: Finding) -> str:
    """What is said of one image: the model's positive or negative phrase."""
    return request.model.positive_phrase if finding.positive else request.model.negative_phrase


def version(request: ReportRequest) -> str:
    """The model's version with the beginning of its weights' hash: "1.0.0+sha256:ab12cd34"."""
    return f"{request.model.version}+sha256:{request.model.sha256[:8]}"


def parameters(request: ReportRequest) -> str:
    """The settings that the model answered with: "threshold=0.24", and the scope's limit where it was set."""
    scope = "" if request.model.scope_limit == 1 else f"; scope_limit={request.model.scope_limit:g}"
    return f"threshold={request.model.threshold:g}{scope}"


def _amended(request: ReportRequest) -> str:
    if request.predecessor is None:
        return ""
    when = source.local_time(source.newest(request), request.predecessor.created_at)
    return f"AMENDED (replaces {when:%H:%M})"


def _missing(request: ReportRequest) -> list[str]:
    missing = request.missing_images
    were = "images of this study in the PACS were" if missing > 1 else "image of this study in the PACS was"
    return [f"{missing} {were} not received."] if missing else []


def _place(request: ReportRequest, image: ImageResult) -> str:
    return _one_line(anatomy.place(image.source, [other.source for other in request.images]))


def _probability(image: ImageResult) -> float:
    return image.finding.probability if image.finding else -1.0


def _worst(images: tuple[ImageResult, ...]) -> ImageResult:
    return max(images, key=_probability)


def _worst_by_side(request: ReportRequest) -> dict[str, ImageResult]:
    """The image with the highest probability of each side that any analyzed image states."""
    sides: dict[str, list[ImageResult]] = {}
    for image in request.images:
        side = source.side(request, image)
        if side and image.finding:
            sides.setdefault(anatomy.SIDES[side], []).append(image)
    return {side: _worst(tuple(images)) for side, images in sides.items()}


def _one_line(text: str) -> str:
    """Without backslashes and control characters, which have a meaning of their own in LO."""
    return printable(text).replace("\\", " ")


def printable(text: str) -> str:
    """A text without control characters, of which most may not be in any text of DICOM (PS3.5 6.2)."""
    return "".join(c if c.isprintable() else " " for c in text)
