"""OpenTelemetry sees the statements of sessions, those of async code too."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ..servers import Postgres

pytest.importorskip("opentelemetry.instrumentation.psycopg")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_each_statement_is_a_span(way):
    with Postgres() as server:
        program = [sys.executable, "-m", "tests.setups.postgres_statements", way, server.url]
        done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # Those of Django's own, when it connects, come first.
    assert [name.split()[0] for name in json.loads(done.stdout)][-4:] == [
        *("INSERT", "SELECT", "UPDATE", "DELETE")
    ]
