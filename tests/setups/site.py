"""Sessions on PostgreSQL below a real package that wraps the driver, or Django's connection.

``python -m tests.setups.site NAME``: prints what fails and answers with a status.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

name = sys.argv[1]
if name == "ddtrace":
    os.environ |= {
        "DD_TRACE_AGENT_URL": "http://127.0.0.1:1",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    }
    import ddtrace.auto  # noqa: F401
elif name == "elastic-apm":
    import elasticapm

    elasticapm.Client(service_name="sessions", disable_send=True).begin_transaction("request")
    elasticapm.instrument()
elif name == "newrelic":
    os.environ["NEW_RELIC_DEVELOPER_MODE"] = "true"
    import newrelic.agent

    newrelic.agent.initialize()
elif name == "opentelemetry":
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

    PsycopgInstrumentor().instrument()

import django  # noqa: E402
from django.conf import settings  # noqa: E402

from tests.servers import Postgres, database  # noqa: E402

server = Postgres().start()
options = {
    "pool": {"pool": {"min_size": 1, "max_size": 4}},
    "checked-pool": {"pool": {"min_size": 1, "max_size": 4}},
}.get(name, {})
entry = database(server.url, **options)
if not options:
    entry["CONN_MAX_AGE"] = None
if name == "checked-pool":
    entry["CONN_HEALTH_CHECKS"] = True
if name == "dj_db_conn_pool":
    entry["ENGINE"] = "dj_db_conn_pool.backends.postgresql"
settings.configure(
    DATABASES={"default": entry},
    INSTALLED_APPS=["django.contrib.contenttypes", "django_strategy_sessions"],
    LOGGING_CONFIG=None,
    SECRET_KEY="only for this process: 0123456789 0123456789",
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402

from django_strategy_sessions.strategies.base import StrategyUnavailable  # noqa: E402
from django_strategy_sessions.strategies.postgres import PostgresStrategy  # noqa: E402
from django_strategy_sessions.testing import later  # noqa: E402

TIMEOUT = 1
strategy = PostgresStrategy(timeout=TIMEOUT)


def load():
    assert strategy.load(stored.session_id) is not None


def write():
    assert strategy.update_data(stored.session_id, {"a": 2}, later())


def aload():
    async def main():
        assert await strategy.aload(stored.session_id) is not None

    asyncio.run(main())


def in_transaction():
    with transaction.atomic():
        write()
        server.pause()
        load()


def fails(work):
    started = time.monotonic()
    try:
        work()
    except StrategyUnavailable:
        pass
    else:
        raise AssertionError(f"{work.__name__} did not fail")
    finally:
        server.resume()
    took = time.monotonic() - started
    assert took < 10 * TIMEOUT, (work.__name__, took)


call_command("migrate", "django_strategy_sessions", verbosity=0)
stored = strategy.insert({"a": 1}, later())
works = (load, write, aload)
for work in works:
    work()
wrapped = name not in {"pool", "checked-pool", "none"}
assert (strategy.connections.why_threads() is not None) == wrapped
for work in works:
    server.pause()
    fails(work)  # on a kept connection
    server.pause()
    fails(work)  # on a new one
    load()
fails(in_transaction)
load()
server.kill()
for work in works:
    fails(work)
server.start()
if options:
    connection.pool.wait(60)  # whose attempts to connect have become rare
for work in works:
    work()
connection.close()
server.close()
sys.stdout.flush()
os._exit(0)  # agents have threads that wait for their servers
