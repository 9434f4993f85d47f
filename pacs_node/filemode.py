"""The node's pipeline on files: no journal, no network."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs_node.config import Settings
from pacs_node.dicom.wrap import PICTURES, wrap
from pacs_node.errors import AdmissionError, InputError
from pacs_node.files import FileStore
from pacs_node.pipeline import Predictor, analyze_instances, encoded, report_basis, report_study
from pacs_node.receive import admission
from pacs_node.records import (
    Analysis,
    Arrival,
    Instance,
    InstanceState,
    NodeIdentity,
    Outcome,
    ReportRequest,
    Result,
    ResultRole,
    StudyState,
)
from pacs_node.report.sr import as_text

# Fixed, so that the same file always gives results with the same UIDs.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "pacs-node analyze")


@dataclass(frozen=True, slots=True)
class StudyAnswer:
    """The answer for the files of one study, or for a file that could not be used."""

    text: str
    """The report and the paths of the files, or why there is no report."""
    failed: bool
    files: int = 1
    """Number of files that it covers."""


@dataclass(frozen=True, slots=True)
class _Input:
    path: Path
    arrival: Arrival


def analyze_files(
    paths: Sequence[Path], settings: Settings, classifier: Predictor, out: Path | None
) -> Iterator[StudyAnswer]:
    """Analyze DICOM, JPEG and PNG files, study by study; results go to `out`, or beside the first image.

    For each image NAME: NAME.sc.dcm and NAME.png; for each study, named after its first image that was not
    skipped: NAME.sr.dcm and NAME.json. A file that cannot be used gives an answer that says why; the others
    go on.
    """
    node = NodeIdentity(
        namespace=str(_NAMESPACE),
        device_uid=f"2.25.{uuid.uuid5(_NAMESPACE, 'device').int}",
        ae_title=settings.node.ae_title,
    )
    with tempfile.TemporaryDirectory(prefix="pacs-node-") as folder:
        files = FileStore(Path(folder))
        studies: dict[str, list[_Input]] = {}
        seen: dict[str, Path] = {}
        for path in paths:
            try:
                arrival = _take(path, files, settings, node)
            except (AdmissionError, InputError) as error:
                yield StudyAnswer(f"{path}: {error}", failed=True)
                continue
            same = seen.setdefault(arrival.sop_instance_uid, path)
            if same != path:
                yield StudyAnswer(f"{path}: skipped: the same image as {same.name}", failed=False)
                continue
            studies.setdefault(arrival.study_instance_uid, []).append(_Input(path, arrival))
        for inputs in studies.values():
            answer = _analyze_study(inputs, files, settings, classifier, node, out)
            yield replace(answer, files=len(inputs))


def _take(path: Path, files: FileStore, settings: Settings, node: NodeIdentity) -> Arrival:
    if path.suffix.lower() in PICTURES:
        stored = files.put(encoded(wrap(path)))
    else:
        try:
            stored = files.put(path.read_bytes())
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}") from error
    today = datetime.now(UTC).date()
    header = admission.read_header(stored.path)
    return admission.examine(stored, header, time.time(), settings.study, node.device_uid, today)


def _analyze_study(
    inputs: Sequence[_Input],
    files: FileStore,
    settings: Settings,
    classifier: Predictor,
    node: NodeIdentity,
    out: Path | None,
) -> StudyAnswer:
    paths = {number: item.path for number, item in enumerate(inputs)}
    instances = [_instance(item.arrival, number) for number, item in enumerate(inputs)]
    received = [instance for instance in instances if instance.state == InstanceState.RECEIVED]
    analyses: list[Analysis] = []
    for start in range(0, len(received), settings.model.batch):
        batch = received[start : start + settings.model.batch]
        analyses += analyze_instances(batch, files.path, classifier)
    ended = {a.instance.id: replace(a.instance, state=a.state, reason=a.failure) for a in analyses}
    done = [ended.get(instance.id, instance) for instance in instances]
    skipped = [f"{paths[i.id]}: skipped: {i.reason}" for i in done if i.state == InstanceState.SKIPPED]
    findings = {a.instance.id: a.finding for a in analyses if a.finding}
    basis = report_basis(done, findings, files.path)
    if basis.state is StudyState.SKIPPED:
        return StudyAnswer("\n".join(skipped), failed=False)
    if basis.refusal:
        names = ", ".join(str(path) for path in paths.values())
        return StudyAnswer(f"{names}: {basis.refusal}", failed=True)
    request = ReportRequest(
        node=node,
        model=classifier.identity,
        study_instance_uid=instances[0].study_instance_uid,
        revision=1,
        created_at=time.time(),
        images=basis.images,
        predecessor=None,
    )
    made = report_study(request, files, settings.report)
    first = next(i.id for i in done if i.state != InstanceState.SKIPPED)
    lines, report = skipped, Dataset()
    for result in made.results:
        dataset = dcmread(files.path(result.sha256))
        if result.role is ResultRole.SR:
            report = dataset
        source = first if result.source_instance_id is None else result.source_instance_id
        lines += _write(result, dataset, paths[source], out)
    name = _target(paths[first], out, ".json")
    name.write_text(json.dumps(_summary(request, made.summary, paths), indent=2), encoding="utf-8")
    return StudyAnswer("\n".join([as_text(report), *lines, str(name)]), failed=made.outcome == Outcome.FAILED)


def _instance(arrival: Arrival, number: int) -> Instance:
    state = InstanceState.SKIPPED if arrival.skip_reason else InstanceState.RECEIVED
    return Instance(
        **arrival.received(), id=number, study_id=0, state=state, reason=arrival.skip_reason, attempts=0
    )


def _write(result: Result, dataset: Dataset, path: Path, out: Path | None) -> list[str]:
    """Write one result as DICOM, an SC also as PNG, named after an image; returns the names."""
    target = _target(path, out, f".{result.role.lower()}.dcm")
    dataset.save_as(target, enforce_file_format=True)
    if result.role is not ResultRole.SC:
        return [str(target)]
    picture = _target(path, out, ".png")
    Image.fromarray(dataset.pixel_array).save(picture)
    return [str(target), str(picture)]


def _target(source: Path, out: Path | None, suffix: str) -> Path:
    folder = out or source.parent
    folder.mkdir(parents=True, exist_ok=True)
    # The whole name and not its stem: a.png and a.dcm may lie side by side, and no input is ever overwritten.
    return folder / f"{source.name}{suffix}"


def _summary(request: ReportRequest, summary: str, paths: dict[int, Path]) -> dict[str, object]:
    return {
        "study_instance_uid": request.study_instance_uid,
        "model": {"id": request.model.id, "version": request.model.version, "sha256": request.model.sha256},
        "threshold": request.model.threshold,
        "summary": summary,
        "images": [
            {
                "path": str(paths[image.instance.id]),
                "sop_instance_uid": image.instance.sop_instance_uid,
                "probability": image.finding.probability if image.finding else None,
                "positive": image.finding.positive if image.finding else None,
                "regions": [asdict(region) for region in image.finding.regions] if image.finding else [],
                "notes": list(image.finding.notes) if image.finding else [],
                "phrase": request.model.phrase(image.finding.positive) if image.finding else None,
                "caveat": request.model.negative_caveat
                if image.finding and not image.finding.positive
                else None,
                "failure": image.failure,
            }
            for image in request.images
        ],
    }
