"""TOML: the writer's documents are read back as they were; errors name the file, the key and the remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from pacs_node import toml
from pacs_node.errors import ConfigError, ModelError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    TEXT
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


class Peer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    port: int = 104
    password: str = ""


class Node(BaseModel):
    model_config = ConfigDict(extra="forbid")
    peers: tuple[Peer, ...] = ()


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_documents_are_read_back_as_they_were_written(data: dict[str, object]) -> None:
    assert tomllib.loads(toml.dump(data)) == data


def test_tables_come_after_plain_keys() -> None:
    written = toml.dump({"a": {"b": 1}, "c": Path("d"), "e": [{"f": 2}, {"g h": {"i": 3}}]})
    assert written == 'c = "d"\n\n[a]\nb = 1\n\n[[e]]\nf = 2\n\n[[e]]\n"g h" = { i = 3 }\n'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"peers": [{"prot": 1}]}, "x: peers.0.prot: unknown key; the known keys are port, password"),
        ({"poets": []}, "x: poets: unknown key; the known keys are peers"),
        ({"peers": [{"port": "y"}]}, "(given: 'y')"),
    ],
)
def test_a_bad_key_is_named(data: object, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        toml.validated(Node, data, "x", ModelError)
    assert message in str(caught.value)


def test_values_are_left_out_where_they_may_be_secret() -> None:
    for data in ({"peers": [{"password": 4711}]}, {"peers": {"password": "4711"}}):
        with pytest.raises(ConfigError) as caught:
            toml.validated(Node, data, "x", show_values=False)
        assert "4711" not in str(caught.value)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(ConfigError, match=r"a\.toml: no such file; write one"):
        toml.read(path, if_missing="write one")
    path.write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"a\.toml: not valid TOML"):
        toml.read(path, ModelError)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        toml.read(tmp_path)
