"""A `CachedStrategy` below tracers of Redis: each a real package, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from ..servers import Valkey, postgres_url
from .test_redis_spans import PACKAGES


@pytest.fixture(scope="module")
def cache():
    with Valkey("--appendonly", "no") as server:
        yield server.url


@pytest.fixture
def store():
    """An empty database."""
    url = postgres_url()
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("DROP DATABASE IF EXISTS traced")
        connection.execute("CREATE DATABASE traced")
        yield urlsplit(url)._replace(path="/traced").geturl()
        connection.execute("DROP DATABASE traced WITH (FORCE)")


@pytest.mark.parametrize("tracer", PACKAGES)
def test_copies_are_read_and_a_logout_is_final_before_and_after_tracing_begins(
    cache, store, tracer
):
    pytest.importorskip(PACKAGES[tracer])
    done = subprocess.run(
        [sys.executable, "-m", "tests.setups.cached_logins", tracer, store, cache],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = {"asks the database": [False, False], "is seen after its logout": False}
    assert json.loads(done.stdout) == {
        when: {"sync": seen, "async": seen} for when in ("before", "after")
    } | {"is traced": True}
