"""One node on two machines, each with all roles, with one PostgreSQL and one shared folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.faults.run import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_machines_share_the_work(tmp_path: Path, database_url: Callable[[str], str]) -> None:
    figures = run(tmp_path, "five", kills=20, database=database_url("postgresql"), machines=2)
    assert not figures.violations, figures
    assert figures.studies
