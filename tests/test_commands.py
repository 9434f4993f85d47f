"""Properties of every command: help with an example, JSON, colours, errors, completion, questions."""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pacs_node.cli import app
from pacs_node.config import load
from pacs_node.journal.database import open_database
from pacs_node.records import AuditKind

BREAKING = """
import os, signal, sys
from pacs_node.cli import app, main

@app.command()
def explode():
    raise ValueError("DOE^JANE")

@app.command()
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()

main()
"""


def leaves(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from leaves(child, *path, name)
    else:
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


def run(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pacs_node", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def on_a_terminal(folder: Path, command: list[str], answers: str = "", **environment: str) -> tuple[int, str]:
    """Run a program on a terminal and type these answers; its exit code and output."""
    ours, its = pty.openpty()
    inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=inherited | {"TERM": "xterm"} | environment,
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    os.write(ours, answers.encode())
    shown = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:
            break
        shown += more
    os.close(ours)
    return process.wait(60), shown.decode()


@pytest.fixture
def breaking(tmp_path: Path) -> Path:
    (tmp_path / "breaking.py").write_text(BREAKING)
    return tmp_path / "breaking.py"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_has_an_example_and_the_exit_codes(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"])
    assert shown.exit_code == 0
    assert "Example: pacs-node " in shown.output
    assert "Exit codes:" in shown.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_that_prints_a_table_has_json(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    source = inspect.getsource(inspect.unwrap(command.callback))
    if "Table(" in source or ".show(console)" in source:
        assert any("--json" in option.opts for option in command.params)


def test_an_unexpected_error_is_one_line_without_its_message(breaking: Path, tmp_path: Path) -> None:
    failed = subprocess.run(
        [sys.executable, breaking, "explode"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: unexpected ValueError")
    assert failed.stderr.count("\n") == 1
    assert "DOE" not in failed.stderr
    failed = subprocess.run(
        [sys.executable, breaking, "--debug", "explode"], capture_output=True, text=True, check=False
    )
    assert "Traceback" in failed.stderr


def test_an_interrupted_command_ends_quietly(breaking: Path) -> None:
    done = subprocess.run(
        [sys.executable, breaking, "interrupt"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("command", [("config", "show"), ("status", "--json")])
def test_a_closed_pipe_is_no_error(tmp_path: Path, command: tuple[str, str]) -> None:
    """Whether it is noticed while there is more to write, or at the end only."""
    open_database(f"sqlite:///{tmp_path}/storage/journal.sqlite").close()
    ours, its = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "pacs_node", *command],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
        stdout=its,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(its)
    assert (done.returncode, done.stderr) == (1, "")


def test_no_color_is_respected(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pacs_node", "--help"]
    color = re.compile(r"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m")
    _, colored = on_a_terminal(tmp_path, command)
    assert color.search(colored)
    _, plain = on_a_terminal(tmp_path, command, NO_COLOR="1")
    assert "Usage" in plain
    assert not color.search(plain)
    logging = "import pathlib, structlog; from pacs_node.cli.log import configure_log\n"
    logging += "from pacs_node.config import Settings; configure_log(Settings(), 'worker')\n"
    logging += "structlog.get_logger().error('told')"
    assert color.search(on_a_terminal(tmp_path, [sys.executable, "-c", logging])[1])
    _, plain = on_a_terminal(tmp_path, [sys.executable, "-c", logging], NO_COLOR="1")
    assert "told" in plain
    assert "role=worker" in plain
    assert "\x1b" not in plain


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    script = "from pacs_node.cli import context; context.PROGRESS_SECONDS = 0\n"
    script += "print(*context.progress(range(9), 'verifying', 9))"
    _, shown = on_a_terminal(tmp_path, [sys.executable, "-c", script])
    assert "verifying" in shown
    assert "100%" in shown
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0 1 2 3 4 5 6 7 8\n", "")


def test_a_progress_bar_leaves_the_output_in_its_file(tmp_path: Path) -> None:
    """Standard error is a terminal, standard output a file, as in `audit export > audit.jsonl`."""
    script = "import sys; from pacs_node.cli import context; context.PROGRESS_SECONDS = 0\n"
    script += "sys.stdout = open('out', 'w')\n"
    script += "for number in context.progress(range(9), 'exporting', 9): print(number)"
    _, shown = on_a_terminal(tmp_path, [sys.executable, "-c", script])
    assert "exporting" in shown
    assert (tmp_path / "out").read_text().split() == [*"012345678"]


def test_init_asks_on_a_terminal_until_the_answer_is_valid(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pacs_node", "config", "init", "--port", "4104"]
    answers = "A\\B\nOUR AI\nPACS\npacs.example.org\n99999\n11112\n90\n"
    code, shown = on_a_terminal(tmp_path, command, answers)
    assert code == 0, shown
    assert "1 to 16 printable" in shown
    assert "less than or equal to 65535" in shown
    settings = load(tmp_path / "config.toml")
    assert (settings.node.ae_title, settings.node.port) == ("OUR AI", 4104)
    assert settings.storage.retention_days == 90
    (peer,), (destination,) = settings.peers, settings.destinations
    assert (peer.ae_title, peer.host, peer.reply_to) == ("PACS", "pacs.example.org", ("pacs",))
    assert (destination.name, destination.ae_title, destination.port) == ("pacs", "PACS", 11112)


def test_init_without_a_terminal_takes_its_answers_from_options(tmp_path: Path) -> None:
    made = run(tmp_path, "config", "init", "--pacs-ae-title", "PACS", "--pacs-host", "10.1.2.3")
    assert made.returncode == 0, made.stderr
    settings = load(tmp_path / "config.toml")
    assert settings.destinations[0].port == 104
    assert settings.peers[0].reply_to == ("pacs",)
    for wrong, message in (
        (("--pacs-port", 99999, "--pacs-ae-title", "A", "--pacs-host", "h"), "--pacs-port: "),
        (("--pacs-host", "h"), "need --pacs-ae-title"),
        (("--pacs-ae-title", "A"), "needs --pacs-host"),
        (("--retention-days", -1), "--retention-days: "),
    ):
        refused = run(tmp_path, "config", "init", "other.toml", *wrong)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert not (tmp_path / "other.toml").exists()
    code, shown = on_a_terminal(
        tmp_path, [sys.executable, "-m", "pacs_node", "config", "init", "third.toml", "--defaults"]
    )
    assert (code, load(tmp_path / "third.toml").peers) == (0, ()), shown


def test_check_explains_what_the_configuration_does(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        f"""
[node]
ae_aliases = ["OLD"]
[storage]
retention_days = 30
[[peers]]
name = "archive"
ae_title = "VNA"
host = "10.0.0.0/8"
reply_to = ["vna"]
[[destinations]]
name = "vna"
ae_title = "VNA"
host = "10.0.0.9"
outcomes = ["POSITIVE"]
results = ["SR"]
commitment = {{ae_title = "VNA", host = "10.0.0.9", port = 104}}
max_attempts = 5
[study]
quiet_seconds = 40
expected_count = "cfind"
max_study_age_days = 7
[study.accept]
body_parts = ["HAND", "FOOT"]
[model]
path = {json.dumps(str(load(None).model.path))}
"""
    )
    document = json.loads(run(tmp_path, "config", "check", "--json").stdout)
    assert document["warnings"] == []
    assert document["explained"][1:7] == [
        "listens: as PACSNODE or OLD on 0.0.0.0:11112",
        "may send: VNA from 10.0.0.0/8; its results go to vna",
        "analyzes: CR and DX images of HAND and FOOT of studies of the last 7 days; stores and skips"
        " all others",
        "reports: a study 40 s after its last image, or 10 s after it once all images that the PACS has have"
        " arrived",
        "sends: SR of POSITIVE studies to vna, VNA at 10.0.0.9:104, at most 5 attempts; they count as"
        " delivered once it commits to keep them",
        f"keeps: studies until 30 days after their delivery, in {tmp_path}/storage; receives nothing below"
        " 1 GB free",
    ]


def test_migrate_prints_both_revisions(tmp_path: Path) -> None:
    made = json.loads(run(tmp_path, "db", "migrate", "--json").stdout)
    assert made["from"] is None
    again = run(tmp_path, "db", "migrate")
    assert again.stdout.endswith(f": already at {made['to']}\n")


def test_the_audit_log_is_verified_as_json(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/storage/journal.sqlite")
    database.audit(AuditKind.DISK_LOW)
    assert json.loads(run(tmp_path, "audit", "verify", "--json").stdout) == {"events": 1, "problem": None}
    with database.write() as t:
        t.connection.exec_driver_sql("UPDATE audit SET event = 'changed'")
    database.close()
    verified = run(tmp_path, "audit", "verify", "--json")
    assert verified.returncode == 1
    assert "altered" in json.loads(verified.stdout)["problem"]


def test_the_shell_completes_destinations_and_studies(
    tmp_path: Path, arrive: Callable[[str, str], None]
) -> None:
    arrive(f"sqlite:///{tmp_path}/storage/journal.sqlite", "1.2.77")
    (tmp_path / "config.toml").write_text(
        '[[destinations]]\nname = "vault"\nae_title = "A"\nhost = "h"\n'
        '[[destinations]]\nname = "other"\nae_title = "A"\nhost = "h"\n'
    )
    program = Path(sys.executable).with_name("pacs-node")

    def offered(*words: str) -> list[str]:
        asked = {
            "_PACS_NODE_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        done = subprocess.run(
            [program], cwd=tmp_path, env=os.environ | asked, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert offered("pacs-node", "send", "x.dcm", "--to", "va") == ["vault"]
    assert offered("pacs-node", "--config", "config.toml", "reconcile", "--destination", "o") == ["other"]
    assert offered("pacs-node", "show", "1.2") == ["1.2.77"]
    assert offered("pacs-node", "--config", "none.toml", "show", "1.2") == []
    assert {"status", "studies", "show"} <= set(offered("pacs-node", "s"))


def test_completion_can_be_installed(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("pacs-node")
    done = subprocess.run(
        ["bash", "-c", f"{program} --install-completion && true"],
        env=os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "_PACS_NODE_COMPLETE" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


@pytest.fixture
def arrive() -> Callable[[str, str], None]:
    """Register one image of a study in a journal."""
    from pacs_node.journal import instances
    from pacs_node.records import Arrival

    def register(url: str, study: str) -> None:
        database = open_database(url)
        blank = dict.fromkeys(("calling_ae_title", "called_ae_title", "address", "patient_id"), "")
        uids = dict.fromkeys(("sop_class_uid", "transfer_syntax_uid", "series_instance_uid"), "1.2")
        arrival = Arrival(
            sha256="a" * 64,
            size=1,
            received_at=1.0,
            study_instance_uid=study,
            sop_instance_uid=f"{study}.1",
            modality="DX",
            skip_reason=None,
            may_be_xray=False,
            **blank,
            **uids,
        )
        instances.register(database, [arrival], 0.0)
        database.close()

    return register
