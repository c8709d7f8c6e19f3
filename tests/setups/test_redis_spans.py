"""Tracers see the commands of sessions: each by its own package, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ..servers import Valkey
from .redis_commands import SCRIPT

PACKAGES = {
    "opentelemetry": "opentelemetry.instrumentation.redis",
    "sentry": "sentry_sdk",
    "ddtrace": "ddtrace",
}


@pytest.fixture(scope="module")
def server():
    with (
        Valkey("--repl-diskless-sync-delay", "0") as primary,
        Valkey("--replicaof", "127.0.0.1", str(primary.port)),
        closing(primary.client()) as client,
    ):
        client.set("first", 1)
        assert client.wait(1, 20_000) == 1
        client.script_load(SCRIPT)  # because Sentry leaves out a command that fails
        yield primary


def spans(tracer, way, url, replicas, order):
    pytest.importorskip(PACKAGES[tracer])
    program = "tests.setups.redis_commands"
    done = subprocess.run(
        [sys.executable, "-m", program, tracer, way, url, str(replicas), order],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("order", ["early", "late"])
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("tracer", PACKAGES)
def test_each_command_is_a_span(server, tracer, way, order):
    seen = spans(tracer, way, server.url, 0, order)
    assert [name for name in seen if name != "EVAL"] == ["SET", "GET", "EVALSHA", "EVALSHA"]


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("tracer", PACKAGES)
def test_a_write_that_waits_for_replicas_is_a_span_too(server, tracer, way):
    assert len(spans(tracer, way, server.url, 1, "early")) >= 4
