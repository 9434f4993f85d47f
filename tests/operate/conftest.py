"""Housekeeping is tested on a real journal: its fixtures."""

from support.journal_fixtures import arrival, clock, database, finding, model  # noqa: F401
