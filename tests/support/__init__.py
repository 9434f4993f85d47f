"""Peers, benches, corpora and harnesses of the tests; programs run as `python -m support.NAME`."""

import os
from pathlib import Path

TESTS = str(Path(__file__).resolve().parents[1])
# Inherited by the processes that the tests and benchmarks start.
if TESTS not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH"))))
