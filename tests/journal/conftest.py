"""The journal's fixtures."""

from support.journal import arrival, clock, database, finding, model  # noqa: F401
