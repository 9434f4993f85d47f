"""The settings in words: as a documented file, as a table, and as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pacs_node import toml
from pacs_node.config import Destination, Peer, Settings
from pacs_node.records import Outcome

EXAMPLES: dict[str, dict[str, Any]] = {
    "peers": {"name": "pacs", "ae_title": "ORTHANC", "host": "10.0.0.0/8", "reply_to": ["pacs"]},
    "destinations": {
        "name": "pacs",
        "kind": "dimse",
        "ae_title": "ORTHANC",
        "host": "10.0.0.5",
        "port": 4242,
    },
}
"""Tables that may be repeated, with an example of each."""


def document(answers: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> str:
    """The documented configuration file: every key with its default, or the value that `answers` has.

    Tables of `EXAMPLES` are commented out unless there are answers for them.
    """
    lines = ["# Configuration of pacs-node. Relative paths are relative to this file.", ""]
    for name, field in Settings.model_fields.items():
        section, answer = _section(field), answers.get(name, {})
        if name not in EXAMPLES:
            lines += _documented(name, section, answer)
            continue
        lines += [f"# {section.__doc__}", f"{'' if answer else '# '}[[{name}]]"]
        values = answer or EXAMPLES[name]
        for key, item in section.model_fields.items():
            line = f"{key} = {_value(values.get(key, _default(item)))}  # {item.description}"
            lines.append(line if key in answer else f"# {line}")
        lines.append("")
    return "\n".join(lines)


def _documented(name: str, section: type[BaseModel], answer: Mapping[str, Any]) -> list[str]:
    lines, inner = [f"# {section.__doc__}", f"[{name}]"], []
    for key, field in section.model_fields.items():
        if nested := toml.submodel(field.annotation):
            inner += _documented(f"{name}.{key}", nested, {})
        elif field.default is None:
            lines.append(f"# {key} = {_value(_default(field))}  # {field.description}")
        else:
            lines.append(f"{key} = {_value(answer.get(key, field.default))}  # {field.description}")
    return [*lines, "", *inner]


def table() -> str:
    """The settings as the table of docs/configuration.md."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines += _rows(f"[[{name}]]" if name in EXAMPLES else f"[{name}]", _section(field))
    return "\n".join(lines)


def _rows(heading: str, section: type[BaseModel]) -> Iterator[str]:
    for key, field in section.model_fields.items():
        nested = toml.submodel(field.annotation)
        if nested and field.default is not None:
            yield from _rows(f"{heading[:-1]}.{key}]", nested)
            continue
        required = field.default is PydanticUndefined
        default = "required" if required else "" if field.default is None else f"`{_value(field.default)}`"
        yield f"| `{heading} {key}` | {default} | {field.description} |"


def _section(field: FieldInfo) -> type[BaseModel]:
    section = toml.submodel(field.annotation)
    assert section, field
    return section


def _default(field: FieldInfo) -> Any:
    """The default, or an example if a key is absent by default."""
    return field.examples[0] if field.examples else field.default


def _value(value: Any) -> str:
    if value is PydanticUndefined:
        raise TypeError("a key without a default needs an example")
    return toml.value(value.get_secret_value() if isinstance(value, SecretStr) else value)


def explain(settings: Settings) -> Iterator[tuple[str, str]]:
    """Topics and sentences about what the node does with these settings, in the order of the data."""
    node, study, storage, web = settings.node, settings.study, settings.storage, settings.web
    tls = " over TLS only" if settings.tls.receive else ""
    yield "listens", f"as {' or '.join((node.ae_title, *node.ae_aliases))} on {node.host}:{node.port}{tls}"
    yield from (("may send", _peer(peer)) for peer in settings.peers)
    if not settings.peers:
        yield "may send", "any system"
    parts = f" of {_listed(study.accept.body_parts)}" if study.accept.body_parts else ""
    age = f" of studies of the last {study.max_study_age_days} days" if study.max_study_age_days else ""
    yield "analyzes", f"{_listed(study.accept.modalities)} images{parts}{age}; stores and skips all others"
    counted = (
        f", or {study.quiet_seconds / 4:g} s after it once all images that the PACS has have arrived"
        if study.expected_count == "cfind"
        else ""
    )
    yield "reports", f"a study {study.quiet_seconds:g} s after its last image{counted}"
    yield from (("sends", _destination(destination)) for destination in settings.destinations)
    if not settings.destinations:
        yield "sends", "nothing: results are created and kept"
    days = storage.retention_days
    kept = f"studies until {days} days after their delivery" if days else "everything, without limit"
    yield "keeps", f"{kept}, in {storage.path}; receives nothing below {storage.min_free_gb:g} GB free"
    if storage.backups and not storage.database and settings.schedule.backup:
        yield "backs up", f"its database at {settings.schedule.backup}, keeping {storage.backups} copies"
    if not web.enabled:
        yield "shows", "no web pages: [web] enabled = false"
        return
    yield "shows", f"web pages at {'https' if web.tls else 'http'}://{web.host}:{web.port}"
    missing = "" if web.users.is_file() else ", which does not exist yet: nobody"
    yield "may log in", f"the users in {web.users}{missing}"
    if web.trusted_proxies:
        yield "may log in", f"users whom {_listed(web.trusted_proxies)} names in {web.user_header}"


def _peer(peer: Peer) -> str:
    origin = f"from {peer.host}" if peer.host else "from anywhere"
    reply = f"; its results go to {_listed(peer.reply_to)}" if peer.reply_to else ""
    return f"{peer.ae_title} {origin}{reply}"


def _destination(destination: Destination) -> str:
    outcomes = destination.outcomes
    which = "" if len(outcomes) == len(Outcome) else f" of {_listed(outcomes)} studies"
    stow = destination.kind == "stow"
    address = destination.url if stow else f"{destination.ae_title} at {destination.host}:{destination.port}"
    attempts = destination.max_attempts
    limit = f"at most {attempts} attempts" if attempts else "until it accepts them"
    commitment = "; they count as delivered once it commits to keep them" if destination.commitment else ""
    tls = " over TLS" if destination.tls else ""
    return f"{_listed(destination.results)}{which} to {destination.name}, {address}{tls}, {limit}{commitment}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:-1])) + f" and {names[-1]}" if len(names) > 1 else str(names[0])
