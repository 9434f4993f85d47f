"""The facts of a report, computed once: outcome, names and sides of the images, and what people read first.

Viewers show little more of a report than its SeriesDescription (LO, 64 characters), so it states the outcome,
the place and the probability. When it must be shortened, the place goes, never the outcome or the percentage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from pydicom.dataset import Dataset

from pacs_node.config import ReportSettings
from pacs_node.dicom import anatomy
from pacs_node.receive import admission
from pacs_node.records import ImageResult, InstanceState, ModelIdentity, Outcome, ReportRequest
from pacs_node.report import source

LONGEST_LO = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts(ImageResult):
    """One image of a report, with what holds only beside the other images."""

    name: str
    """Such as "image 2, LL"."""
    side: anatomy.Side | None
    """None if it is not stated, or if its series contradicts it."""

    @property
    def title(self) -> str:
        """The name with a capital letter."""
        return f"{self.name[0].upper()}{self.name[1:]}"

    @property
    def place(self) -> str:
        """Such as "left wrist"."""
        return anatomy.place(self.source, self.side)

    @property
    def probability(self) -> float:
        """The probability of its finding; -1 without a finding."""
        return self.finding.probability if self.finding else -1.0


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """The statements of a report, the same in each of its forms."""

    request: ReportRequest
    settings: ReportSettings
    images: tuple[ImageFacts, ...]
    outcome: Outcome
    """FAILED where no image was analyzed, POSITIVE where any is positive, else NEGATIVE."""
    worst: ImageFacts | None
    """The image with the highest probability; None where no image was analyzed."""
    newest: Dataset
    """Header of the last image received that was not skipped: the patient and study data of today's PACS."""
    gaps: tuple[str, ...]
    """How many X-rays were analyzed and how many images not received; empty in a complete report."""
    description: str
    """The SeriesDescription, such as "AI: Fracture suspected, left wrist, 87 %"."""
    summary: str
    """The report in a few sentences: outcome, place, image, each side, failures, caveat."""

    @property
    def model(self) -> ModelIdentity:
        """The model that answered."""
        return self.request.model

    @classmethod
    def of(cls, request: ReportRequest, settings: ReportSettings) -> ReportFacts:
        """The facts of the report that is made from this request."""
        headers = [image.source for image in request.images]
        images = tuple(
            ImageFacts(
                image.instance,
                image.source,
                image.finding,
                image.failure,
                name=name,
                side=anatomy.laterality(image.source, headers),
            )
            for image, name in zip(request.images, image_names(request.images), strict=True)
        )
        analyzed = [image for image in images if image.finding]
        worst = max(analyzed, key=lambda image: image.probability, default=None)
        outcome = Outcome.FAILED
        if worst is not None:
            positive = any(image.finding.positive for image in analyzed if image.finding)
            outcome = Outcome.POSITIVE if positive else Outcome.NEGATIVE
        attempted = [image for image in images if image.instance.state != InstanceState.SKIPPED]
        newest = max(attempted, key=lambda image: (image.instance.received_at, image.instance.id)).source
        amended = ""
        if request.predecessor:
            when = source.local_time(newest, request.predecessor.created_at)
            amended = f"AMENDED (replaces {when:%H:%M})"
        gaps = []
        if len(analyzed) < len(images):
            gaps.append(f"{len(analyzed)} of {len(images)} X-rays analyzed")
        if request.missing_images:
            gaps.append(f"{request.missing_images} NOT RECEIVED")
        return cls(
            request=request,
            settings=settings,
            images=images,
            outcome=outcome,
            worst=worst,
            newest=newest,
            gaps=tuple(gaps),
            description=_description(request, outcome, worst, gaps, amended),
            summary=_summary(request, outcome, worst, images, amended, settings.label),
        )


def _description(
    request: ReportRequest, outcome: Outcome, worst: ImageFacts | None, gaps: Sequence[str], amended: str
) -> str:
    starts = [f"{amended} AI: ", "AMENDED AI: "] if amended else ["AI: "]
    if worst is None:
        return f"{starts[0]}NOT ANALYZED"
    places, tail = [""], ""
    if outcome is Outcome.POSITIVE:
        part, side, tail = anatomy.body_part(worst.source), worst.side, f", {percent(worst.probability)}"
        shorter = [f"{side} {part}" if side else part, part] if part else []
        places = [f", {place}" for place in (_one_line(worst.place), *shorter)] + [""]
    head = _one_line(request.model.phrase(outcome is Outcome.POSITIVE))
    counts = f", {', '.join(gaps)}"
    ends = [counts, counts.replace("X-rays ", ""), ", INCOMPLETE"] if gaps else [""]
    for start, place, end in product(starts, places, ends):
        if len(start + head + place + tail + end) <= LONGEST_LO:
            return start + head + place + tail + end
    rest = tail + ends[-1]
    return starts[-1] + head[: LONGEST_LO - len(starts[-1] + rest)].rstrip(" ,") + rest


def _summary(
    request: ReportRequest,
    outcome: Outcome,
    worst: ImageFacts | None,
    images: Sequence[ImageFacts],
    amended: str,
    label: str,
) -> str:
    model, missing = request.model, request.missing_images
    sentences = [f"{amended}."] if amended else []
    were = "images of this study in the PACS were" if missing > 1 else "image of this study in the PACS was"
    not_received = [f"{missing} {were} not received."] if missing else []
    if worst is None:
        several = f"None of {len(images)} X-rays could be analyzed."
        sentences += ["AI: NOT ANALYZED.", several if len(images) > 1 else "The X-ray could not be analyzed."]
        return " ".join([*sentences, *not_received, "No statement is made about this study.", label])
    where = f"{_one_line(worst.place)}," if outcome is Outcome.POSITIVE else "highest"
    sentences.append(
        f"AI: {model.phrase(outcome is Outcome.POSITIVE)}, {where} {percent(worst.probability)} "
        f"({worst.name}; threshold {percent(model.threshold)})."
    )
    sides: dict[anatomy.Side, ImageFacts] = {}
    for image in images:
        if image.side and image.finding:
            known = sides.get(image.side, image)
            sides[image.side] = image if image.probability > known.probability else known
    if len(sides) > 1:
        each = (
            f"{anatomy.SIDES[side]} {percent(image.probability)} ({image.name})"
            for side, image in sides.items()
        )
        sentences.append(f"Highest on each side: {'; '.join(each)}.")
    if outcome is Outcome.NEGATIVE and not anatomy.body_part(worst.source):
        sentences.append(f"{anatomy.NOT_STATED.capitalize()}.")
    if failed := sum(image.finding is None for image in images):
        sentences.append(f"{len(images) - failed} of {len(images)} X-rays analyzed, {failed} NOT ANALYZED.")
    sentences += not_received
    if not model.scope_limit:
        sentences.append("Whether the model knows images of this kind was not checked.")
    if outcome is Outcome.NEGATIVE:
        sentences.append(model.negative_caveat)
    return " ".join([*sentences, label])


def images_to_report(images: Iterable[ImageResult]) -> tuple[ImageResult, ...]:
    """The images of a study for which its report accounts, in order; none where all were skipped.

    Skipped X-rays are among them: a report that does not name them reads as if they had been analyzed. One
    from which an analyzed image was made, such as a DX for processing, counts as analyzed.
    """
    every = in_order(images)
    if all(image.instance.state == InstanceState.SKIPPED for image in every):
        return ()
    sources = {
        str(item.get("ReferencedSOPInstanceUID"))
        for image in every
        if image.finding
        for item in image.source.get("SourceImageSequence") or []
        if isinstance(item, Dataset)
    }
    return tuple(
        image
        for image in every
        if image.instance.state != InstanceState.SKIPPED
        or (admission.may_be_xray(image.source) and image.instance.sop_instance_uid not in sources)
    )


def in_order(images: Iterable[ImageResult]) -> tuple[ImageResult, ...]:
    """Images as a radiologist counts them: by series number, then instance number, then arrival."""

    def key(image: ImageResult) -> tuple[int, int, int]:
        series, own = (source.number(image.source, name) for name in ("SeriesNumber", "InstanceNumber"))
        return series or 0, own or 0, image.instance.id

    return tuple(sorted(images, key=key))


def image_names(images: Sequence[ImageResult]) -> tuple[str, ...]:
    """A name for each image: "image 2, LL".

    The number is InstanceNumber if that is distinct, else with SeriesNumber, else the position.
    """
    numbers = [source.number(image.source, "InstanceNumber") for image in images]
    series = [source.number(image.source, "SeriesNumber") for image in images]
    names = [f"image {own}" for own in numbers]
    if None in numbers or len(set(names)) < len(names):
        names = [f"series {first} image {second}" for first, second in zip(series, numbers, strict=True)]
    if None in numbers or len(set(names)) < len(names):
        names = [f"image {position} of {len(images)}" for position in range(1, len(images) + 1)]
    views = [str(image.source.get("ViewPosition") or "") for image in images]
    return tuple(f"{name}, {view}" if view else name for name, view in zip(names, views, strict=True))


def percent(probability: float) -> str:
    """A probability (0..1) for people: "87 %", never the certainty of "0 %" or "100 %"."""
    if probability < 0.01:
        return "<1 %"
    return ">99 %" if probability > 0.99 else f"{probability * 100:.0f} %"


def printable(text: str) -> str:
    """A text without control characters, most of which no DICOM text may contain (PS3.5 6.2)."""
    return "".join(c if c.isprintable() else " " for c in text)


def _one_line(text: str) -> str:
    # In LO, a backslash separates values.
    return printable(text).replace("\\", " ")
