"""Reads copies and logs out, before and after a tracer of Redis begins, and prints what it saw."""

from __future__ import annotations

import asyncio
import json
import sys

import django
from django.conf import settings

from tests.servers import database
from tests.setups import redis_commands


def main():
    tracer, store, cache = sys.argv[1:]
    alias = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": cache}
    settings.configure(
        CACHES={"one": alias, "other": alias},
        DATABASES={"default": database(store)},
        INSTALLED_APPS=["django.contrib.contenttypes", "django_strategy_sessions"],
        SECRET_KEY="only for this process: 0123456789 0123456789",
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command
    from django.db import close_old_connections

    from django_strategy_sessions.signals import CACHE_HIT, session_event
    from django_strategy_sessions.strategies.cached import CachedStrategy
    from django_strategy_sessions.testing import later

    call_command("migrate", "django_strategy_sessions", verbosity=0)
    module = "django_strategy_sessions.strategies"
    one, other = (
        CachedStrategy(
            cache={"BACKEND": f"{module}.redis.RedisStrategy", "OPTIONS": {"alias": name}},
            store=f"{module}.postgres.PostgresStrategy",
        )
        for name in ("one", "other")
    )
    events = []

    def hear(sender, event, **kwargs):
        events.append(event)

    session_event.connect(hear)

    def asks_database(load, session_id):
        """Whether each of a few loads does, because a lease may end."""
        for _ in range(5):
            events.clear()
            assert load(session_id).data == {"a": 1}
            if CACHE_HIT in events:
                return False
        return True

    def visit(way):
        def verb(strategy, name):
            if way == "sync":
                return getattr(strategy, name)
            return lambda *given: loop.run(getattr(strategy, f"a{name}")(*given))

        stored = verb(one, "insert")({"a": 1}, later())
        asked = [asks_database(verb(each, "load"), stored.session_id) for each in (one, other)]
        verb(one, "delete_data")(stored.session_id)
        left = verb(other, "load")(stored.session_id)
        return {"asks the database": asked, "is seen after its logout": left is not None}

    with asyncio.Runner() as loop:
        seen = {"before": {way: visit(way) for way in ("sync", "async")}}
        spans = getattr(redis_commands, tracer)()
        seen["after"] = {way: visit(way) for way in ("sync", "async")}
        close_old_connections()
    sys.stdout.write(json.dumps({**seen, "is traced": bool(spans())}))


if __name__ == "__main__":
    main()
