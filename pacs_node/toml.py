"""TOML: the one reader and the one writer."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pacs_node.errors import ConfigError, PacsNodeError

M = TypeVar("M", bound=BaseModel)


def read(path: Path, error: type[PacsNodeError] = ConfigError, if_missing: str = "") -> dict[str, Any]:
    """Tables of a TOML file. Raises `error`, which names the file; `if_missing` says what to do then."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file{if_missing and f'; {if_missing}'}") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise error(f"{path}: not valid TOML: {problem}") from None


def validated(
    model: type[M],
    data: object,
    source: object,
    error: type[PacsNodeError] = ConfigError,
    show_values: bool = True,
) -> M:
    """`data` as a model. Raises `error` with a line for each bad key: what is wrong, what would be right."""
    try:
        return model.model_validate(data)
    except ValidationError as problems:
        lines = [f"{source}: {_explain(model, problem, show_values)}" for problem in problems.errors()]
        raise error("\n".join(lines)) from None


def parse_value(text: str) -> Any:
    """A TOML value, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(model: type[BaseModel], problem: Any, show_values: bool) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known: Any = model
        for part in problem["loc"][:-1]:
            if isinstance(part, str) and part in known.model_fields:
                known = submodel(known.model_fields[part].annotation) or known
        return f"{key}: unknown key; the known keys are {', '.join(known.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    # A whole table is not repeated: it may hold a password.
    show_values = show_values and problem["type"] != "missing" and not isinstance(problem["input"], dict)
    given = f" (given: {problem['input']!r})" if show_values else ""
    return f"{key}: {message}{given}" if key else message


def submodel(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type, such as of `Peer`, `Peer | None` or `tuple[Peer, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (submodel(part) for part in getattr(annotation, "__args__", ()))
    return next((model for model in inner if model), None)


def dump(data: Mapping[str, Any]) -> str:
    """A TOML document: plain keys first, then tables and arrays of tables; tables inside those are inline."""
    plain, tables = [], []
    for key, entry in data.items():
        if isinstance(entry, Mapping):
            tables.append(f"\n[{_key(key)}]\n{_entries(entry)}")
        elif isinstance(entry, list | tuple) and entry and all(isinstance(item, Mapping) for item in entry):
            tables += [f"\n[[{_key(key)}]]\n{_entries(item)}" for item in entry]
        else:
            plain.append(f"{_key(key)} = {value(entry)}")
    return "\n".join([*plain, *tables]).lstrip() + "\n"


def _entries(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(key)} = {value(entry)}" for key, entry in table.items())


def value(entry: Any) -> str:
    """One value: the strings, numbers and arrays of JSON are TOML's."""
    if isinstance(entry, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {value(item)}' for key, item in entry.items())} }}"
    if isinstance(entry, list | tuple):
        return f"[{', '.join(map(value, entry))}]"
    text = json.dumps(str(entry) if isinstance(entry, Path) else entry, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else value(key)
