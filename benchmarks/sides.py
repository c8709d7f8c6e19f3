"""What is measured: the same operations on our engine, on Django's, and on the bare driver."""

from __future__ import annotations

import json
import random
import secrets
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol
from uuid import uuid4

import psycopg
from django.conf import settings
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.utils.module_loading import import_string
from django_redis import get_redis_connection

from django_strategy_sessions import records
from django_strategy_sessions.strategies import postgres, redis

from .settings import ENGINES, STRATEGIES, Router, middleware

Data = dict[str, Any]
LOGIN = {
    "_auth_user_id": "4711",
    "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
    "_auth_user_hash": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
}


def payload(size: int, **more: Any) -> Data:
    """Typical session data that is about `size` bytes long as JSON."""
    data: Data = {"locale": "en-gb", "visits": 12, "cart": [17, 4, 2031], **more}
    chance = random.Random(size)
    while (missing := size - len(json.dumps(data, separators=(",", ":")))) > 16:
        name = f"{chance.choice(['filter', 'seen', 'draft', 'token'])}_{len(data)}"
        kinds = [
            " ".join(chance.choices(["blue", "shirt", "size", "for", "the", "next", "order"], k=6)),
            "".join(chance.choices(string.ascii_letters + string.digits, k=32)),
            chance.randrange(10**6),
            [chance.randrange(1000) for _ in range(5)],
        ]
        value = chance.choice(kinds)
        data[name] = value if len(str(value)) < missing else "x" * max(1, missing - len(name) - 6)
    return data


@dataclass(frozen=True)
class Operation:
    title: str
    verb: str
    spends: bool = False  # its session, so that each call needs one of its own
    settings: tuple[tuple[str, Any], ...] = ()


ROLLING = (("SESSION_SAVE_EVERY_REQUEST", True),)
OPERATIONS = [
    Operation("load", "load"),
    Operation("load, change, save", "save"),
    Operation("create", "create"),
    Operation("login", "login", spends=True),
    Operation("logout", "logout", spends=True),
    Operation("forged cookie", "forged"),
    Operation("rolling", "rolling", settings=ROLLING),
    Operation("rolling, with the middleware", "request", settings=ROLLING),
]


class Side(Protocol):
    """One way to keep sessions. A verb that it lacks is not compared."""

    def create(self, data: Data) -> Any: ...
    def load(self, key: Any) -> None: ...
    def save(self, key: Any) -> None: ...
    def login(self, key: Any) -> None: ...
    def logout(self, key: Any) -> None: ...


class Engine:
    """A session engine, used as views and `django.contrib.auth` use it."""

    def __init__(self, engine: str, middleware: str, forge: Callable[[], str]) -> None:
        self.engine, self.path, self.forge = engine, middleware, forge
        self.store = import_module(engine).SessionStore
        with override_settings(SESSION_ENGINE=engine):
            self.middleware = import_string(middleware)(_view)

    def create(self, data: Data) -> str:
        session = self.store()
        session.update(data)
        session.save()
        key: str = session.session_key
        return key

    def load(self, key: str) -> None:
        self.store(key)["locale"]

    def save(self, key: str) -> None:
        session = self.store(key)
        session["visits"] += 1
        session.save()

    def login(self, key: str) -> None:
        session = self.store(key)
        session.cycle_key()
        session.update(LOGIN)
        session.save()

    def rotate(self, key: str) -> None:
        self.store(key).cycle_key()

    def logout(self, key: str) -> None:
        self.store(key).flush()

    def forged(self, key: str) -> None:
        self.store(key).get("locale")

    def rolling(self, key: str) -> None:
        session = self.store(key)
        session["locale"]
        session.get_expiry_age()  # the cookie's
        session.save()

    def request(self, key: str) -> None:
        request = HttpRequest()
        request.COOKIES[settings.SESSION_COOKIE_NAME] = key
        self.middleware(request)


def _view(request: HttpRequest) -> HttpResponse:
    request.session["locale"]
    return HttpResponse()


# The bare sides do our strategies' round trips, and JSON: no macs but a constant, no hashes, no
# expiry to reckon, no look at what changed.
_MAC = "0" * records.MAC_LENGTH
_PAST, _FAR = "2020-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00"
_HOUR = 3_600_000  # milliseconds
_MARKER = "-" * (2 * records.MAC_LENGTH + 32)  # what a rotation leaves under the old key


def _dumped(data: Data) -> str:
    return f"{_MAC}t{json.dumps(data, separators=(',', ':'))}"


class BarePostgres:
    def __init__(self) -> None:
        parameters = connections[Router.alias].get_connection_params()
        self.connection = psycopg.connect(**parameters, autocommit=True)

    def create(self, data: Data) -> str:
        key = uuid4().hex
        self._one(postgres._INSERT, key, _dumped(data), _FAR, data.get("_auth_user_id"), None, _FAR)
        return key

    def load(self, key: str) -> Data:
        row = self._one(postgres._SELECT, key)
        data: Data = json.loads(row[1][len(_MAC) + 1 :])
        return data

    rolling = load

    def save(self, key: str) -> None:
        data = self.load(key)
        data["visits"] += 1
        self._swap(key, data)

    def login(self, key: str) -> None:
        new, data = self.rotate(key)
        data |= LOGIN
        self._swap(new, data)

    def rotate(self, key: str) -> tuple[str, Data]:
        data, new = self.load(key), uuid4().hex
        row = new, _dumped(data), _FAR, data.get("_auth_user_id"), None, _FAR
        self._one(postgres._MOVE, _MARKER, _FAR, _FAR, key, _PAST, _MAC, *row)
        return new, data

    def logout(self, key: str) -> None:
        self._one(postgres._DELETE, key)

    def _swap(self, key: str, data: Data) -> None:
        values = _dumped(data), _FAR, data.get("_auth_user_id"), None, _FAR
        self._one(postgres._SWAP, *values, key, _PAST, _MAC)

    def _one(self, sql: str, *values: Any) -> Any:
        row = self.connection.execute(sql, values).fetchone()
        assert row, sql
        return row


class BareRedis:
    def __init__(self) -> None:
        self.client = get_redis_connection("bare")
        self.scripts = {
            script: self.client.script_load(script)
            for script in (redis._SWAP, redis._MOVE, redis._REMOVE, _UNMARKED_KEY)
        }

    def create(self, data: Data) -> str:
        key = uuid4().hex
        assert self.client.set(key, _dumped(data), px=_HOUR, nx=True)
        return key

    def load(self, key: str) -> Data:
        data: Data = json.loads(self.client.get(key)[len(_MAC) + 1 :])
        return data

    rolling = load

    def save(self, key: str) -> None:
        data = self.load(key)
        data["visits"] += 1
        self._run(redis._SWAP, [key], _MAC, _dumped(data), _HOUR)

    def login(self, key: str) -> None:
        new, data = self.rotate(key)
        data |= LOGIN
        self._run(redis._SWAP, [new], _MAC, _dumped(data), _HOUR)

    def rotate(self, key: str) -> tuple[str, Data]:
        data, new = self.load(key), uuid4().hex
        self._run(redis._MOVE, [key, new], _MAC, _MARKER, _HOUR, _dumped(data), _HOUR)
        return new, data

    def logout(self, key: str) -> None:
        self._run(redis._REMOVE, [key])

    def _run(self, script: str, keys: list[str], *values: Any) -> None:
        assert self.client.evalsha(self.scripts[script], len(keys), *keys, *values) == 1


# The same, but a rotation leaves no marker under the old key: what the marker costs.
_UNMARKED_ID = postgres._SWAP.replace(" SET ", " SET id = %s, ", 1)
_UNMARKED_KEY = f"""
if {redis._MAC} ~= ARGV[1] then return 0 end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return 0 end
return redis.call('DEL', KEYS[1])
"""


class UnmarkedPostgres(BarePostgres):
    def rotate(self, key: str) -> tuple[str, Data]:
        data, new = self.load(key), uuid4().hex
        values = _dumped(data), _FAR, data.get("_auth_user_id"), None, _FAR
        self._one(_UNMARKED_ID, new, *values, key, _PAST, _MAC)
        return new, data


class UnmarkedRedis(BareRedis):
    def rotate(self, key: str) -> tuple[str, Data]:
        data, new = self.load(key), uuid4().hex
        self._run(_UNMARKED_KEY, [key, new], _MAC, _dumped(data), _HOUR)
        return new, data


@contextmanager
def stores(alias: str) -> Iterator[dict[str, Side]]:
    """The sides, over a database of this alias, or for ``redis`` over Redis, or for ``cached`` over
    PostgreSQL with Redis in front."""
    store = {"redis": "Redis", "cached": "cached"}.get(alias, "PostgreSQL")
    Router.alias = "default" if store != "PostgreSQL" else alias
    with override_settings(SESSION_STRATEGY=STRATEGIES[store]):
        sides: dict[str, Side] = {
            name: Engine(engine, middleware(name), _forge_ours if name == "ours" else _forge_theirs)
            for name, engine in ENGINES[store].items()
        }
        if store != "cached":  # no driver has this alone
            sides["bare"] = BareRedis() if store == "Redis" else BarePostgres()
        yield sides


def _forge_ours() -> str:
    return f"{secrets.token_urlsafe(16)}.{'A' * 17}"


def _forge_theirs() -> str:
    return secrets.token_hex(16)
