"""Sends a few commands under one tracer, and prints the spans that it saw: a program."""

from __future__ import annotations

import asyncio
import json
import sys

from django.conf import settings

KEY = "session:0123456789abcdef0123456789abcdef"
SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]) return 1"


def opentelemetry():
    from opentelemetry.instrumentation.redis import RedisInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    RedisInstrumentor().instrument(tracer_provider=provider)
    return lambda: [span.name for span in exporter.get_finished_spans()]


def sentry():
    import sentry_sdk
    from sentry_sdk.transport import Transport

    seen = []

    class Kept(Transport):
        def capture_envelope(self, envelope):
            if event := envelope.get_transaction_event():
                seen.extend(event["spans"])

    sentry_sdk.init("https://key@example.com/1", traces_sample_rate=1.0, transport=Kept)
    transaction = sentry_sdk.start_transaction(name="test")
    transaction.__enter__()

    def spans():
        transaction.__exit__(None, None, None)
        return [span["description"].split()[0] for span in seen if span["op"] == "db.redis"]

    return spans


def ddtrace():
    import ddtrace
    from ddtrace.trace import TraceFilter, tracer

    seen = []

    class Kept(TraceFilter):
        def process_trace(self, trace):
            seen.extend(trace)
            return

    tracer.configure(trace_processors=[Kept()])
    ddtrace.patch(redis=True)
    return lambda: [span.resource.split()[0] for span in seen if "redis" in span.name]


def send(clients):
    clients.write("SET", KEY, "1")
    clients.execute("GET", KEY)
    clients.script(SCRIPT, [KEY], "2")
    clients.script(SCRIPT, [KEY], "2")


async def asend(clients):
    await clients.awrite("SET", KEY, "1")
    await clients.aexecute("GET", KEY)
    await clients.ascript(SCRIPT, [KEY], "2")
    await clients.ascript(SCRIPT, [KEY], "2")


def main():
    tracer, way, url, replicas, order = sys.argv[1:]
    settings.configure(
        CACHES={"sessions": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}}
    )
    from django_strategy_sessions.strategies.redis_clients import RedisClients

    clients = RedisClients("sessions", replicas=int(replicas))
    if order == "late":  # as where a worker begins to trace after it was forked
        clients.is_cluster()
    spans = globals()[tracer]()
    if way == "sync":
        send(clients)
    else:
        asyncio.run(asend(clients))
    sys.stdout.write(json.dumps(spans()))


if __name__ == "__main__":
    main()
