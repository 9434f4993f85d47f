"""`doctor`: checks of the node and of its destinations, each failure with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import structlog

from pacs_node.errors import PacsNodeError

_log = structlog.get_logger(__name__)


class State(StrEnum):
    """Result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: subject, result, finding and remedy."""

    what: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A group of checks, run on demand; `what` names the group."""

    what: str
    checks: Callable[[], Iterable[Check]]

    def run(self) -> Iterator[Check]:
        """Yield each check as it completes. An error becomes a failed check."""
        try:
            yield from self.checks()
        except PacsNodeError as error:
            yield Check(self.what, State.FAIL, str(error))
        except ImportError as error:
            found = f"the Python module {error.name} is missing or broken: {error}"
            yield Check(self.what, State.FAIL, found, "install pacs-node again, with its dependencies")
        except Exception as error:  # noqa: BLE001 - the other checks must go on
            _log.exception("check_error", check=self.what)
            found = f"the check itself failed: {type(error).__name__}: {error}"
            yield Check(self.what, State.FAIL, found, "please report it")
