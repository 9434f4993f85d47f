"""The journal's fixtures."""

from journal_fixtures import arrival, clock, database, finding, model  # noqa: F401
