"""Settings: sources, precedence and error messages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pacs_node import config
from pacs_node.cli.explain import document
from pacs_node.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, '[storage]\npath = "data"\n'))
    assert settings.storage.path == tmp_path / "data"
    assert settings.database_url == f"sqlite:///{tmp_path}/data/journal.sqlite"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node]\nae_titel = 'X'", ["node.ae_titel", "unknown key", "ae_title"]),
        ("[node]\nport = 99999", ["node.port", "65535", "99999"]),
        ("[node]\nae_title = 'MORE THAN SIXTEEN CHARACTERS'", ["node.ae_title", "1 to 16"]),
        ("[model]\nthreshold = 1.5", ["model.threshold", "less than 1"]),
        (
            "[[destinations]]\nname = 'pacs'\nhost = 'h'\nport = 104",
            ["destinations.0: destination pacs: dimse needs ae_title"],
        ),
        (
            "[[destinations]]\nname = 'pacs'\nkind = 'stow'\nurl = 'https://node:hunter2@pacs/dicom-web'",
            ["destination pacs: username and password have keys of their own"],
        ),
        ("[[peers]]\nname='a'\nae_title='A'\nreply_to=['nowhere']", ["peers.a.reply_to", "nowhere"]),
        ("[node", ["TOML"]),
        ("[study]\naccept.modalities = ['MG']", ["study.accept.modalities", "'CR'"]),
    ],
)
def test_an_invalid_setting_names_the_key_and_the_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    for word in [*words, str(path)]:
        assert word in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config init"):
        config.load(tmp_path / "none.toml")


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_NODE__NODE__PORT", "2222")
    monkeypatch.setenv("PACS_NODE__NODE__AE_TITLE", "FROM_ENV")
    monkeypatch.setenv("PACS_NODE__STUDY__ACCEPT__MODALITIES", '["CR"]')
    settings = config.load(write(tmp_path, "[node]\nport = 1111\nhost = '127.0.0.1'\n"))
    assert (settings.node.port, settings.node.ae_title) == (2222, "FROM_ENV")
    assert settings.node.host == "127.0.0.1"
    assert settings.study.accept.modalities == ("CR",)


def test_an_invalid_environment_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_NODE__NODE__WORKERS", "none")
    with pytest.raises(ConfigError, match=r"node\.workers"):
        config.load(None)


def test_reply_to_routes_the_results_of_a_peers_images() -> None:
    settings = config.Settings.model_validate(
        {
            "peers": [
                {"name": "a", "ae_title": "A", "reply_to": ["two"]},
                {"name": "b", "ae_title": "B"},
            ],
            "destinations": [
                {"name": name, "ae_title": "X", "host": "h", "port": 104} for name in ("one", "two", "three")
            ],
        }
    )
    assert settings.destinations_for({"A"}) == ("two",)
    assert settings.destinations_for({"B"}) == ("one", "two", "three")
    assert settings.destinations_for({"UNLISTED"}) == ("one", "two", "three")
    assert settings.destinations_for({"A", "B"}) == ("one", "two", "three")


def test_the_documented_file_states_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, document())
    assert config.load(path) == config.load(write(tmp_path, ""))
    for section in config.Settings.model_fields:
        assert f"[{section}" in document()


def test_the_examples_in_the_documented_file_are_valid(tmp_path: Path) -> None:
    text = document()
    lines = [
        line.removeprefix("# ") if line.startswith(("# [[", "# ")) else line for line in text.splitlines()
    ]
    kept = [line for line in lines if "=" in line or line.startswith("[")]
    settings = config.load(write(tmp_path, "\n".join(kept)))
    assert settings.peers
    assert settings.destinations


def test_no_password_of_the_database_is_shown() -> None:
    url = "postgresql+psycopg://pacs:a:se@cret@db/pacs"
    settings = config.Settings.model_validate({"storage": {"database": url}})
    assert settings.database_url == url
    shown = settings.model_dump(mode="json")["storage"]["database"]
    assert shown == "postgresql+psycopg://pacs:***@db/pacs"


def test_the_node_listens_beyond_this_machine_only_once_peers_are_named(tmp_path: Path) -> None:
    peer = '[[peers]]\nname = "a"\nae_title = "A"\n'
    assert config.load(write(tmp_path, "")).node.host == "127.0.0.1"
    assert config.load(write(tmp_path, peer)).node.host == "0.0.0.0"
    assert config.load(write(tmp_path, f'{peer}[node]\nhost = "10.0.0.1"')).node.host == "10.0.0.1"


def test_the_shipped_file_is_the_documented_defaults_and_can_be_served(tmp_path: Path) -> None:
    """`config check` loads all that `serve` would; the node then listens on loopback only."""
    shipped = CHECKOUT / "config.toml"
    assert shipped.read_text(encoding="utf-8") == document()
    settings = config.load(shipped)
    assert settings.node.host == settings.web.host == "127.0.0.1"
    assert settings.storage.path == CHECKOUT / "storage"
    command = [sys.executable, "-m", "pacs_node", "--config", str(shipped), "config", "check", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "listens: as PACSNODE on 127.0.0.1:11112" in json.loads(done.stdout)["explained"]


def test_git_ignores_what_the_node_stores_and_nothing_that_is_shipped() -> None:
    def ignored(*paths: str) -> list[str]:
        command = ["git", "check-ignore", "--no-index", *paths]
        return subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, check=False
        ).stdout.split()

    stored = ["storage/journal.sqlite", "storage/spool/new/1", "storage/backups/a", "users.toml"]
    assert ignored("config.toml", "storage/README.md", *stored) == stored
