"""What a configuration means, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pacs_node.config import Destination, Peer, Settings
from pacs_node.records import Outcome


def explain(settings: Settings) -> Iterator[tuple[str, str]]:
    """Topics and sentences that say what the node does by these settings, in the order of the data."""
    node, study, storage, web = settings.node, settings.study, settings.storage, settings.web
    tls = " over TLS only" if settings.tls.receive else ""
    yield "listens", f"as {' or '.join((node.ae_title, *node.ae_aliases))} on {node.host}:{node.port}{tls}"
    yield from (("may send", _peer(peer)) for peer in settings.peers)
    if not settings.peers:
        yield "may send", "anyone"
    parts = f" of {_all(study.accept.body_parts)}" if study.accept.body_parts else ""
    old = f" of studies of the last {study.max_study_age_days} days" if study.max_study_age_days else ""
    yield "analyzes", f"{_all(study.accept.modalities)} images{parts}{old}; keeps and skips everything else"
    counted = (
        f", or {study.quiet_seconds / 4:g} s after it once all that the PACS has are here"
        if study.expected_count == "cfind"
        else ""
    )
    yield "reports", f"a study {study.quiet_seconds:g} s after its last image{counted}"
    yield from (("sends", _destination(one)) for one in settings.destinations)
    if not settings.destinations:
        yield "sends", "nothing: results are made and kept"
    days = storage.retention_days
    kept = f"studies until {days} days after their delivery" if days else "everything for ever"
    yield "keeps", f"{kept}, in {storage.path}; receives nothing below {storage.min_free_gb:g} GB free"
    if storage.backups and not storage.database and settings.schedule.backup:
        yield "backs up", f"its database at {settings.schedule.backup}, the last {storage.backups} copies"
    if web.enabled:
        yield "shows", f"its page at {'https' if web.tls else 'http'}://{web.host}:{web.port}"
        told = "" if web.users.is_file() else ", which is not there yet: nobody"
        yield "may log in", f"who stands in {web.users}{told}"
        if web.trusted_proxies:
            header = f"whom {_all(web.trusted_proxies)} names in {web.user_header}"
            yield "may log in", header
    else:
        yield "shows", "no page: [web] enabled = false"


def _peer(peer: Peer) -> str:
    where = f"from {peer.host}" if peer.host else "from anywhere"
    reply = f"; its results go to {_all(peer.reply_to)}" if peer.reply_to else ""
    return f"{peer.ae_title} {where}{reply}"


def _destination(one: Destination) -> str:
    which = "" if len(one.outcomes) == len(Outcome) else f" of {_all(one.outcomes)} studies"
    where = one.url if one.kind == "stow" else f"{one.ae_title} at {one.host}:{one.port}"
    tries = f"at most {one.max_attempts} times" if one.max_attempts else "until it takes them"
    promised = "; delivered is what it commits to keep" if one.commitment else ""
    tls = " over TLS" if one.tls else ""
    return f"{_all(one.results)}{which} to {one.name}, {where}{tls}, {tries}{promised}"


def _all(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:-1])) + f" and {names[-1]}" if len(names) > 1 else str(names[0])
