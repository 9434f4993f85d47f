"""The log: structlog on standard error, without patients' data."""

from __future__ import annotations

import logging
import os
import sys
import traceback

import structlog

from pacs_node.config import Settings


def configure_log(settings: Settings, role: str = "") -> None:
    """Log at the level and in the format of the settings; each line names role and process.

    pydicom and pynetdicom quote values of the data set in messages and warnings. Patients' data must not get
    into the log, so these are heard only at the debug level.
    """
    level = logging.getLevelNamesMapping()[settings.log.level.upper()]
    libraries = logging.WARNING if level == logging.DEBUG else logging.CRITICAL
    logging.basicConfig(stream=sys.stderr, level=libraries, format="%(levelname)s %(name)s %(message)s")
    logging.captureWarnings(True)
    for name in ("pydicom", "pynetdicom", "highdicom", "py.warnings"):
        logging.getLogger(name).setLevel(libraries)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
    )

    def add_process(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        # Not a context variable: threads begin with none.
        return {**event, "role": role, "pid": os.getpid()}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if level == logging.DEBUG else _stack_without_message,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _stack_without_message(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Log an exception's type and stack, but not its message, which may quote the data set."""
    if event.pop("exc_info", None):
        kind, _, trace = sys.exc_info()
        frames = "".join(traceback.format_tb(trace))
        event["exception"] = f"{frames}{kind.__name__ if kind else 'unknown error'}"
    return event
