"""Real packages around the driver and around Django's connection, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

MODULES = {
    "none": "psycopg",
    "pool": "psycopg_pool",
    "checked-pool": "psycopg_pool",
    "dj_db_conn_pool": "dj_db_conn_pool",
    "ddtrace": "ddtrace",
    "elastic-apm": "elasticapm",
    "newrelic": "newrelic",
    "opentelemetry": "opentelemetry.instrumentation",  # the tests install the rest
}


@pytest.mark.parametrize("name", MODULES)
def test_sessions_work_and_an_outage_ends_in_time_below(name):
    if find_spec(MODULES[name]) is None:
        pytest.skip(f"{name} is not installed: tox -e setups")
    command = [sys.executable, "-m", "tests.setups.site", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
