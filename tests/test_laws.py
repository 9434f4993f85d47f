"""The laws of the house that can be read from the source: who may import whom, and what happens at import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pacs_node"
FRONT = {"records", "heatmap", "errors", "toml", "config", "files", "dicom"}
ORDER = ["receive", "journal", "analyze", "report", "deliver", "operate", "web", "training", "demo"]
"""The rooms in the order in which the data flows: a room imports only rooms before it."""
NEVER = {("report", "analyze"), ("deliver", "analyze"), ("web", "analyze"), ("receive", "journal")}
HOMES = {
    "pynetdicom": {"dicom", "receive", "deliver", "demo"},
    "dicomweb_client": {"deliver"},
    "requests": {"deliver"},
    "sqlalchemy": {"journal"},
    "alembic": {"journal"},
    "torch": {"analyze", "training"},
    "torchvision": {"analyze", "training"},
    "onnxruntime": {"analyze"},
    "highdicom": {"report"},
    "prometheus_client": {"operate"},
    "sklearn": {"training"},
    "matplotlib": {"training"},
    "jinja2": {"web", "training"},
    "scipy": {"operate", "training"},
    "typer": {"cli"},
    "apscheduler": {"operate"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "argon2": {"web"},
    "limits": {"web"},
    "markdown_it": {"web"},
    "sse_starlette": {"web"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside of a function; names of our rooms in full."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_flow_of_the_data(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        top = name.split(".")[0]
        assert here in HOMES.get(top, {here}), f"{top} lives in {HOMES.get(top)}, not in {here}"
        if top != "pacs_node" or "." not in name:
            continue
        there = name.split(".")[1]
        assert (here, there) not in NEVER, f"{here} must not know {there}"
        if here in ORDER and there != here and there not in FRONT:
            # The demo shows the whole node and so may use all of it.
            assert here == "demo" or there in ORDER[: ORDER.index(here)] or there == "__version__", (
                f"{here} imports {there}, which comes after it"
            )
        if here in FRONT:
            assert there in FRONT, f"{here} travels everywhere and must not import {there}"


def test_training_knows_no_finding() -> None:
    """Labels, finding and phrases come from the recipe."""
    named = [path for path in (PACKAGE / "training").iterdir() if path.suffix in (".py", ".html")]
    assert len(named) > 10
    assert not [path.name for path in named if "racture" in path.read_text(encoding="utf-8")]


def test_rooms_have_no_vague_names() -> None:
    vague = {"utils", "helpers", "common", "manager", "misc"}
    assert not vague & {part for path in FILES for part in (*path.parts, path.stem)}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    """Typer takes about 0.1 s of CPU; any of these takes as long again, or much longer."""
    heavy = {"torch", "highdicom", "sqlalchemy", "pynetdicom", "matplotlib", "sklearn", "onnxruntime"}
    heavy |= {"pydicom", "numpy", "pydantic", "structlog", "rich", "pacs_node.config", "pacs_node.records"}
    code = f"import sys; from pacs_node.cli import main; sys.argv = ['pacs-node', {option!r}]\n"
    code += "try: main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pacs-node" in done.stdout
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["pacs_node.roles.receive", "pacs_node.roles.deliver", "pacs_node.pipeline", "pacs_node.roles.worker"],
)
def test_importing_starts_no_thread_and_needs_no_torch(module: str) -> None:
    code = f"import sys, threading, {module}; print(threading.active_count(), 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["1", "False"]


def test_the_pages_name_no_finding_of_their_own() -> None:
    """A page says what its model looks for in the words of that model."""
    pages = [path for path in (PACKAGE / "web").rglob("*") if path.suffix in (".py", ".html", ".js")]
    assert len(pages) > 20
    assert [path.name for path in pages if "racture" in path.read_text(encoding="utf-8")] == []
