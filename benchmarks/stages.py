"""The time from the last C-STORE response to the results in the PACS, stage by stage.

Each stage by itself on a phantom study of two views of 5 megapixels, then the whole: the node as `serve`
runs it, with a quiet period of 0 s and Orthanc as the PACS.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from ingest import free_port, running_orthanc, send, started, wait
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, generate_uid
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.phantom import two_views

from pacs_node.analyze import decode, package, pixels, regions
from pacs_node.analyze.classifier import Classifier
from pacs_node.cli.log import configure_log
from pacs_node.config import Settings, load
from pacs_node.deliver import dimse
from pacs_node.demo.pacs import Address, OrthancRest
from pacs_node.files import FileStore
from pacs_node.journal import instances, processes, views
from pacs_node.journal.database import Database, open_database
from pacs_node.node import Node
from pacs_node.pipeline import analyze_instances, encoded, report_study
from pacs_node.records import ImageResult, ReportRequest
from pacs_node.report import check, sc, sr
from pacs_node.report.facts import ReportFacts
from pacs_node.roles.receive import take_in

COMPRESSORS = {"JPEG lossless": "dcmcjpeg", "JPEG-LS": "dcmcjpls", "RLE": "dcmcrle"}
ALWAYS_POSITIVE = 0.0001
"""Threshold for the stages: regions are found and drawn whatever the model says of a phantom."""

T = TypeVar("T")


class Watch:
    """Times steps; the first run of each is a warm-up and not counted. `rows`: stage and unit to seconds."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat
        self.rows: dict[tuple[str, str], list[float]] = {}

    def time(self, stage: str, unit: str, step: Callable[[], T], before: Callable[[], object] = int) -> T:
        """Run `before`, untimed, and `step` repeatedly; returns the last result."""
        seconds = self.rows[stage, unit] = []
        for _ in range(self.repeat + 1):
            before()
            start = time.perf_counter()
            result = step()
            seconds.append(time.perf_counter() - start)
        del seconds[0]
        return result


def encodings(folder: Path, rows: int, columns: int) -> dict[str, list[Path]]:
    """The study in every transfer syntax that this machine can write; paths of its two views."""
    made: dict[str, list[Path]] = {"uncompressed": [], "JPEG 2000": []}
    for number, view in enumerate(two_views(2, fractured=True, rows=rows, columns=columns)):
        made["uncompressed"].append(folder / f"{number}.dcm")
        view.save_as(made["uncompressed"][-1], enforce_file_format=True)
        view.compress(JPEG2000Lossless, generate_instance_uid=False)
        made["JPEG 2000"].append(folder / f"{number}-j2k.dcm")
        view.save_as(made["JPEG 2000"][-1])
    for name, program in COMPRESSORS.items():
        made[name] = [path.with_name(f"{path.stem}-{program}.dcm") for path in made["uncompressed"]]
        for plain, packed in zip(made["uncompressed"], made[name], strict=True):
            subprocess.run([program, str(plain), str(packed)], check=True)
    return made


def time_stages(watch: Watch, studies: dict[str, list[Path]], settings: Settings, pacs: OrthancRest) -> None:
    """Time each step of `pipeline` on real files, and the delivery to the PACS."""
    for name, paths in studies.items():
        watch.time(f"decode, {name}", "image", partial(decode.read, paths[0]))
    image = decode.read(studies["uncompressed"][0])
    display = watch.time("prepare", "image", partial(pixels.prepare, image)).display
    model = package.load(settings.model.path)
    size, stretch = model.manifest.input.size, model.manifest.input.stretch
    watch.time("letterbox", "image", partial(pixels.letterbox, display, size, stretch))
    network = Classifier(model, settings.model.device, ALWAYS_POSITIVE)
    (prediction,) = watch.time("letterbox, network, Grad-CAM", "image", lambda: network.predict([display]))
    watch.time("letterbox, network, Grad-CAM", "batch of 8", lambda: network.predict([display] * 8))
    watch.time("regions", "image", partial(regions.find, prediction.heat_map, *display.shape))

    files = FileStore(settings.storage.path)
    with closing(open_database(settings.database_url)) as journal:
        node = journal.identity(settings.node.ae_title)
        for path in studies["uncompressed"]:
            files.spool([path.read_bytes()], str)
        take_in(Node(settings, journal, files, node), {})
        claim = instances.claim_instances(journal, 8)
    views_in = claim.items if claim else ()
    analyze = partial(analyze_instances, views_in, files.path, network)
    analyses = watch.time("analyze: decode to regions", "study", analyze)
    headers = [dcmread(files.path(item.sha256), stop_before_pixels=True) for item in views_in]
    request = ReportRequest(
        node=node,
        model=network.identity,
        study_instance_uid=views_in[0].study_instance_uid,
        revision=1,
        created_at=time.time(),
        images=tuple(
            ImageResult(a.instance, header, a.finding) for a, header in zip(analyses, headers, strict=True)
        ),
        predecessor=None,
    )
    rules = settings.report
    facts = watch.time("report: facts", "study", partial(ReportFacts.of, request, rules))
    capture = watch.time("SC: build", "image", partial(sc.build, facts, facts.images[0], display))
    report = watch.time("SR: build", "study", partial(sr.build, facts))
    for name, result in (("SC", capture), ("SR", report)):
        watch.time(f"{name}: check", "object", partial(check.verify, result, facts))
        data = watch.time(f"{name}: encode", "object", partial(encoded, result))
        stored = files.put(data)
        watch.time(f"{name}: store", "object", partial(files.put, data), stored.path.unlink)
    made = watch.time("report: decode to store", "study", partial(report_study, request, files, rules))
    paths = [files.path(result.sha256) for result in made.results]
    watch.time(
        "deliver: 2 SC, SR",
        "study",
        lambda: list(dimse.store(settings.destinations[0], "BENCH", paths)),
        # Orthanc does not store an object that it has.
        lambda: [pacs.call("DELETE", f"/studies/{study}") for study in pacs.get("/studies")],
    )


def time_whole(watch: Watch, studies: dict[str, list[Path]], configuration: Path, node: Address) -> None:
    """Time from the end of the sender's association to each step's last event in the journal."""
    folder = configuration.parent
    command = [sys.executable, "-m", "pacs_node", "--config", str(configuration), "serve"]
    journal = open_database(load(configuration).database_url)
    with closing(journal), started(command, folder / "node.log"):
        wait(lambda: not processes.missing(processes.running(journal)), "the node's start")
        for name, paths in studies.items():
            for turn in range(watch.repeat + 1):
                uid = new_study(paths, folder / "outbox")
                send(folder / "outbox", node)
                answered = time.time()
                wait(partial(is_delivered, journal, uid), "the results")
                study = views.study(journal, uid) or {}
                for what, rows, column in (
                    ("analyzed", "instances", "analyzed_at"),
                    ("results in the PACS", "results", "sent_at"),
                ):
                    seconds = watch.rows.setdefault((f"whole, {name}: {what}", "study"), [])
                    if turn:
                        seconds.append(max(row[column] for row in study[rows]) - answered)


def new_study(paths: Sequence[Path], outbox: Path) -> str:
    """Copy images as a new study into an empty folder; returns its Study Instance UID."""
    shutil.rmtree(outbox, ignore_errors=True)
    outbox.mkdir()
    study = str(generate_uid(prefix=None))
    for path in paths:
        image = dcmread(path)
        image.StudyInstanceUID, image.SeriesInstanceUID = study, generate_uid(prefix=None)
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        image.save_as(outbox / path.name)
    return study


def is_delivered(journal: Database, uid: str) -> bool:
    """Whether both images were analyzed and all results of the study sent."""
    study = views.study(journal, uid) or {"state": "", "instances": []}
    analyzed = [image["state"] == "ANALYZED" for image in study["instances"]]
    return study["state"] == "DELIVERED" and analyzed == [True, True]


def main(
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each stage; medians are shown.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="Small images, once: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every run as JSON.")] = False,
    model: Annotated[Path, typer.Option(help="Model package.")] = Path("models/fracture-squeezenet-2"),
) -> None:
    """Time the node's stages, one by one and together. Needs Orthanc and dcmtk."""
    watch = Watch(1 if quick else repeat)
    with tempfile.TemporaryDirectory(prefix="pacs-node-bench-") as name:
        folder, node = Path(name), Address("PACSNODE", "127.0.0.1", free_port())
        studies = encodings(folder, *((640, 512) if quick else (2560, 2048)))
        with running_orthanc(folder / "pacs") as pacs:
            configuration, to = folder / "config.toml", pacs.address
            configuration.write_text(
                f'[node]\nhost = "{node.host}"\nport = {node.port}\n'
                "[web]\nenabled = false\n"
                f'[model]\npath = "{model.resolve()}"\n[study]\nquiet_seconds = 0\n[[destinations]]\n'
                f'name = "pacs"\nae_title = "{to.ae_title}"\nhost = "{to.host}"\nport = {to.port}\n',
                encoding="utf-8",
            )
            settings = load(configuration)
            configure_log(settings)
            apart = settings.storage.model_copy(update={"path": folder / "stages"})
            time_stages(watch, studies, settings.model_copy(update={"storage": apart}), pacs.rest)
            time_whole(watch, studies, configuration, node)
    shown = Table("stage", "per", "ms", "range")
    for (stage, unit), seconds in watch.rows.items():
        span = f"{1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f}"
        shown.add_row(stage, unit, f"{1e3 * statistics.median(seconds):.1f}", span)
    if as_json:
        rows = [{"stage": stage, "per": unit, "s": s} for (stage, unit), s in watch.rows.items()]
        print(json.dumps(rows, indent=2))
    else:
        Console(width=100).print(shown)


if __name__ == "__main__":
    typer.run(main)
