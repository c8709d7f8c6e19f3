"""Processes that sign users in and are killed at random moments.

``python -m tests.redis.killed_sign_ins URL COUNT`` kills `COUNT` of them. Then it compares the
sessions in Redis with those that the users' indexes have, and prints what it counted as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime, timedelta

from django.conf import settings

USERS = [f"user {number}" for number in range(5)]


def sign_in_for_ever(strategy, started):
    expires = datetime.now(UTC) + timedelta(hours=1)
    while True:
        user = {"_auth_user_id": random.choice(USERS)}
        stored = strategy.insert({"cart": 1}, expires)
        stored = strategy.rotate(stored, stored.data, expires)
        stored = strategy.merge(stored, {**stored.data, **user}, expires)
        strategy.rotate(stored, {"another": "tab", **user}, expires)
        if started is not None:
            os.write(started, b".")
            started = None


def kill_one(make):
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        sign_in_for_ever(make(), started)
    os.close(started)
    assert os.read(ready, 1) == b"."
    time.sleep(random.uniform(0, 0.005))  # a moment that nobody chose
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)


def main(url, count):
    settings.configure(
        CACHES={"sessions": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}},
        SECRET_KEY="only for this process: 0123456789 0123456789",
    )
    from django_strategy_sessions import records
    from django_strategy_sessions.strategies.redis import RedisStrategy

    for _ in range(count):
        kill_one(lambda: RedisStrategy("sessions", prefix="killed:"))
    strategy = RedisStrategy("sessions", prefix="killed:")
    live = {user: set() for user in USERS}
    for name in strategy.clients.execute("KEYS", "killed:*"):
        key = name.removeprefix("killed:")
        if key.startswith("owner:"):
            continue
        row = strategy.get(key)
        if row is None or records.is_moved(row.record):  # None: it has just expired
            continue
        texts = records.unseal(key, row.record, strategy.header_length)
        if "_auth_user_id" in texts:
            live[json.loads(texts["_auth_user_id"])].add(key)
    found = {user: {one.reference for one in strategy.find_owned(user)} for user in USERS}
    missing = sum(len(live[user] - found[user]) for user in USERS)
    json.dump({"live": sum(map(len, live.values())), "missing": missing}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
