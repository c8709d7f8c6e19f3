"""The recipes of ``monitoring.md`` run on the real client libraries.

The dashboard and the alerts ask for the metrics that the recipes export.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from django.test import RequestFactory
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import REGISTRY

from django_strategy_sessions.engine import SessionStore

from ..conftest import MEMORY, TIMED, UNTIMED, run_in_loop
from .pages import DOCS, ROOT, blocks, names_of, received, rows

PAGE = DOCS / "monitoring.md"
DASHBOARD = json.loads((DOCS / "monitoring/dashboard.json").read_text())
ALERTS = (DOCS / "monitoring/alerts.yml").read_text()


@pytest.fixture
def visits(settings):
    """Sync and async code use sessions."""
    settings.SESSION_STRATEGY = MEMORY

    def visit():
        session = SessionStore()
        session["a"] = 1
        session.save()
        SessionStore(session.session_key)["a"]
        SessionStore(f"{'A' * 22}.{'A' * 17}").get("a")
        run_in_loop(session.aflush())

    return visit


@pytest.fixture(scope="module")
def prometheus():
    with received(PAGE.name, "metrics.py") as names:
        yield
    REGISTRY.unregister(names["EVENTS"])
    REGISTRY.unregister(names["DURATION"])


def exported():
    """What the page's view answers: the value of each series."""
    page = names_of(PAGE.name)["metrics"](RequestFactory().get("/metrics"))
    assert page.headers["Content-Type"].startswith("text/plain")
    lines = page.content.decode().splitlines()
    return {
        series: float(value)
        for series, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        if series.startswith("django_session")
    }


def test_prometheus_counts_each_event_and_times_those_that_asked_the_store(prometheus, visits):
    visits()
    series = exported()
    for event, count in {"created": 1, "loaded": 1, "refused": 1, "ended": 1}.items():
        labels = f'{{event="{event}",strategy="MemoryStrategy"}}'
        assert series[f"django_session_events_total{labels}"] == count
        timed = series.get(f"django_session_duration_seconds_count{labels}")
        assert timed == (None if event == "refused" else count)


def queries():
    yield from re.findall(r"expr: (?:\|\n)?(.*?)\n        for:", ALERTS, re.DOTALL)
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_are_exported(prometheus, visits):
    visits()
    names = {series.partition("{")[0] for series in exported()}
    labels = {"event", "strategy", "job", "le"}
    asked = list(queries())
    assert len(asked) == 5 + 16
    for query in asked:
        found = re.findall(r"(\w+)\{(.*?)\}|(\w+)\[", query)
        assert found, query
        for name, selector, bare in found:
            assert (name or bare) in names, query
            for label, values in re.findall(r'(\w+)=~?"(.*?)"', selector):
                assert label in labels
                assert label != "event" or {*values.split("|")} <= TIMED | UNTIMED, query
        for grouped in re.findall(r"\bby \((.*?)\)", query):
            assert {*grouped.split(", ")} <= labels, query


def test_the_page_lists_every_event_and_every_alert():
    told = {event: duration for event, duration, _ in rows(PAGE, "The events")}
    assert told == {**dict.fromkeys(TIMED, "yes"), **dict.fromkeys(UNTIMED, "no")}
    listed = [alert for alert, *_ in rows(PAGE, "The alerts")]
    assert listed == re.findall(r"alert: (\w+)", ALERTS)


WORKERS = """
import os, sys
from django.conf import settings
settings.configure(SECRET_KEY="k" * 40, INSTALLED_APPS=["django_strategy_sessions"])
import django
django.setup()
from django.test import RequestFactory
from django_strategy_sessions.signals import LOADED, tell
from django_strategy_sessions.strategies.memory import MemoryStrategy

exec(sys.argv[1])
tell(MemoryStrategy, LOADED, 0.1)
for worker in range(2):
    if not (child := os.fork()):
        tell(MemoryStrategy, LOADED, 0.1)
        os._exit(0)
    os.waitpid(child, 0)
exec(sys.argv[2])
print(metrics(RequestFactory().get("/metrics")).content.decode())
"""


def test_prometheus_adds_up_what_the_workers_of_a_server_have_counted(tmp_path):
    recipe, urls = (
        next(block.code for block in blocks(PAGE) if block.file == file)
        for file in ("metrics.py", "urls.py")
    )
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, recipe, urls],
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    labels = '{event="loaded",strategy="MemoryStrategy"}'
    assert f"\ndjango_session_events_total{labels} 3.0\n" in done.stdout
    assert f"\ndjango_session_duration_seconds_count{labels} 3.0\n" in done.stdout


def test_opentelemetry_counts_each_event_and_times_those_that_asked_the_store(visits):
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    with received(PAGE.name, "telemetry.py"):
        visits()
    (resource,) = reader.get_metrics_data().resource_metrics
    found = {one.name: one for scope in resource.scope_metrics for one in scope.metrics}
    events, durations = found["django.session.events"], found["django.session.duration"]
    assert (events.unit, durations.unit) == ("{event}", "s")
    counts = {one.attributes["event"]: one.value for one in events.data.data_points}
    assert counts == {"created": 1, "loaded": 1, "refused": 1, "ended": 1}
    timed = {one.attributes["event"]: one.count for one in durations.data.data_points}
    assert timed == {"created": 1, "loaded": 1, "ended": 1}
    assert {one.attributes["strategy"] for one in events.data.data_points} == {"MemoryStrategy"}
    assert durations.data.data_points[0].explicit_bounds[0] == 0.00025
