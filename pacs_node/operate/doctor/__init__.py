"""`doctor`: what keeps the node from doing its work, check by check, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import structlog

from pacs_node.errors import PacsNodeError

_log = structlog.get_logger(__name__)


class State(StrEnum):
    """What a check says."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, how it is, what was found, and what to do about it."""

    what: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Checks that belong together, made when `checks` is called; `what` names them until then."""

    what: str
    checks: Callable[[], Iterable[Check]]

    def run(self) -> Iterator[Check]:
        """The checks, each as it is made. One that cannot be made fails with the reason."""
        try:
            yield from self.checks()
        except PacsNodeError as error:
            yield Check(self.what, State.FAIL, str(error))
        except ImportError as error:
            found = f"the Python module {error.name} is missing or broken: {error}"
            package = {"gdcm": "python-gdcm", "cv2": "opencv-python-headless"}.get(
                error.name or "", "pacs-node"
            )
            yield Check(self.what, State.FAIL, found, f"pip install --force-reinstall {package}")
        except Exception as error:  # noqa: BLE001 - the other checks must go on
            _log.exception("check_error", check=self.what)
            found = f"the check itself failed: {type(error).__name__}: {error}"
            yield Check(self.what, State.FAIL, found, "please report it")
