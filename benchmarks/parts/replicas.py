"""What waiting for a replica costs: `replicas: 1` and `replicas: 0` on the same primary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.test import override_settings

from tests.servers import Valkey

from ..filling import created
from ..measure import Times, each, ratio, turn_about
from ..report import Section, as_ratio, microseconds, table
from ..scale import SIZES, Scale
from ..servers import on_servers_cpu
from ..settings import CACHES, ENGINES, STRATEGIES, middleware
from ..sides import LOGIN, Engine, payload

BACKEND = STRATEGIES["Redis"]["BACKEND"]
SIDES = ("1", "0")  # the option `replicas`
VERBS = {
    "load": "load",
    "load, change, save": "save",
    "create": "create",
    "rotation": "rotate",
    "login": "login",
    "logout": "logout",
}


def measured(scale: Scale) -> Section:
    with _replicated() as url:
        cells = {title: _turns(verb, url, scale) for title, verb in VERBS.items()}
    rows = (
        [
            operation,
            as_ratio(ratio(times, "1", "0")),
            *(microseconds(times, side) for side in SIDES),
        ]
        for operation, times in cells.items()
    )
    head = ["operation", "times as long", *(f"`replicas: {side}`" for side in SIDES)]
    about = (
        "`RedisStrategy` on a primary with one replica, on loopback, with 1 kB of data. With"
        " `replicas: 1` each write waits in the same round trip until the replica has it. Between"
        " two machines, add the time from the primary to its replica and back."
    )
    return Section("Replicas", about, [table(head, rows)])


@contextmanager
def _replicated() -> Iterator[str]:
    """Start both servers. Yield the primary's URL."""
    with ExitStack() as stack:
        with on_servers_cpu():  # both processes inherit it
            primary = stack.enter_context(Valkey("--repl-diskless-sync-delay", "0"))
            stack.enter_context(Valkey("--replicaof", "127.0.0.1", str(primary.port)))
        with primary.client() as client:
            client.set("synchronized", "yes")
            assert client.wait(1, 10_000) == 1
        yield primary.url


def _turns(verb: str, url: str, scale: Scale) -> Times:
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
    caches = override_settings(CACHES={**CACHES, "replicated": cache})
    engine = Engine(ENGINES["Redis"]["ours"], middleware("ours"), str)
    data = payload(SIZES["1 kB"], **({} if verb == "login" else LOGIN))

    def batch(replicas: str) -> float:
        options = {"alias": "replicated", "replicas": int(replicas)}
        strategy = {"BACKEND": BACKEND, "OPTIONS": options}
        with override_settings(SESSION_STRATEGY=strategy):
            subjects: list[Any] = [data] * scale.batch
            if verb != "create":
                subjects = created(engine, data, scale.batch)
            return each(getattr(engine, verb), subjects)

    with caches:
        return turn_about(SIDES, scale.rounds, batch)
