"""The journal's fixtures."""

from support.journal_fixtures import arrival, clock, database, finding, model  # noqa: F401
