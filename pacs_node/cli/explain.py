"""The settings in words: as a documented file and as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_origin

from pydantic import BaseModel, SecretStr

from pacs_node import toml
from pacs_node.config import Destination, Peer, Settings
from pacs_node.records import Outcome


def document(answers: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> str:
    """The documented configuration file: every key with its default, or the value that `answers` has.

    Tables that may be repeated, and keys that are absent by default, are commented out unless answered.
    """
    lines = ["# Configuration of pacs-node. Relative paths are relative to this file.", ""]
    for name, field in Settings.model_fields.items():
        repeated = get_origin(field.annotation) is tuple
        heading = f"[[{name}]]" if repeated else f"[{name}]"
        lines += _documented(heading, toml.submodel(field.annotation), answers.get(name, {}), repeated)
    return "\n".join(lines)


def _documented(
    heading: str, section: type[BaseModel] | None, answer: Mapping[str, Any], repeated: bool = False
) -> list[str]:
    assert section, heading
    lines, inner = [f"# {section.__doc__}", f"{'# ' if repeated and not answer else ''}{heading}"], []
    for key, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            inner += _documented(f"{heading[:-1]}.{key}]", type(field.default), {})
            continue
        value = answer.get(key, field.examples[0] if field.examples else field.default)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        line = f"{key} = {toml.value(value)}  # {field.description}"
        lines.append(f"# {line}" if key not in answer and (repeated or field.default is None) else line)
    return [*lines, "", *inner]


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
