"""Housekeeping is tested on a real journal: its fixtures."""

from support.journal import arrival, clock, database, finding, model  # noqa: F401
