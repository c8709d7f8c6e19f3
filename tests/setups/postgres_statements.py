"""Runs verbs of a session under OpenTelemetry, and prints the spans that it saw: a program."""

from __future__ import annotations

import asyncio
import json
import sys

from django.conf import settings
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.servers import database


def spans_of(way, url):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    PsycopgInstrumentor().instrument(tracer_provider=provider)

    import django

    settings.configure(
        DATABASES={"default": {**database(url), "CONN_MAX_AGE": None}},
        INSTALLED_APPS=["django.contrib.contenttypes", "django_strategy_sessions"],
        SECRET_KEY="only for this process: 0123456789 0123456789",
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command

    from django_strategy_sessions.strategies.postgres import PostgresStrategy
    from django_strategy_sessions.testing import later

    call_command("migrate", "django_strategy_sessions", verbosity=0)
    strategy = PostgresStrategy()
    strategy.load("nobody")  # connects
    exporter.clear()

    def send():
        stored = strategy.insert({"a": 1}, later())
        strategy.merge(strategy.load(stored.session_id), {"a": 2}, later())
        strategy.delete_data(stored.session_id)

    async def asend():
        stored = await strategy.ainsert({"a": 1}, later())
        loaded = await strategy.aload(stored.session_id)
        await strategy.amerge(loaded, {"a": 2}, later())
        await strategy.adelete_data(stored.session_id)

    if way == "sync":
        send()
    else:
        asyncio.run(asend())
    return [span.name for span in exporter.get_finished_spans()]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(spans_of(*sys.argv[1:])))
