"""React Router's `createSessionStorage`, item by item, by the numbers of docs/react-router.md.

Each test of a kept behavior has its numbers in its name; `ours` says that we decided otherwise,
and the test is of that.
"""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime

import pytest
from asgiref.sync import async_to_sync

from django_strategy_sessions import create_session_storage

NEW, OLD = "n" * 32, "o" * 32
CLEARED = "__session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; SameSite=Lax"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
T = datetime(2030, 6, 1, 12, tzinfo=UTC)
T_HEADER = "Sat, 01 Jun 2030 12:00:00 GMT"


def pair(set_cookie):
    """What a browser sends back."""
    return set_cookie.partition(";")[0]


def attributes(set_cookie):
    given = (each.partition("=") for each in set_cookie.split("; ")[1:])
    return {name: value or True for name, _, value in given}


class Store:
    """Four functions over a dict, and what they were called with."""

    def __init__(self):
        self.rows, self.calls, self.ids = {}, [], itertools.count(1)

    def create_data(self, *given):
        self.calls.append(("create_data", *given))
        session_id = f"id{next(self.ids)}"
        self.rows[session_id] = json.dumps(given[0])
        return session_id

    def read_data(self, *given):
        self.calls.append(("read_data", *given))
        return json.loads(self.rows.get(given[0], "null"))

    def update_data(self, *given):
        self.calls.append(("update_data", *given))
        if given[0] not in self.rows:
            return False
        self.rows[given[0]] = json.dumps(given[1])
        return True

    def delete_data(self, *given):
        self.calls.append(("delete_data", *given))
        self.rows.pop(given[0], None)

    @property
    def verbs(self):
        return [verb for verb, *_ in self.calls]

    def storage(self, cookie=None, **replaced):
        verbs = ("create_data", "read_data", "update_data", "delete_data")
        functions = {verb: getattr(self, verb) for verb in verbs}
        return create_session_storage(**{**functions, **replaced}, cookie=cookie)


class InThreads:
    """A storage whose async twins are used."""

    def __init__(self, storage):
        self.storage = storage

    def __getattr__(self, verb):
        return async_to_sync(getattr(self.storage, f"a{verb}"))


@pytest.fixture(params=["sync", "async"])
def storage(request, strategy):
    storage = create_session_storage(strategy)
    return storage if request.param == "sync" else InThreads(storage)


@pytest.fixture
def store():
    return Store()


def held(storage, **data):
    """The header that a browser sends whose session holds `data`."""
    session = storage.get_session()
    for name, value in data.items():
        session.set(name, value)
    return pair(storage.commit_session(session))


class Down(Exception):
    pass


def down(*given):
    raise Down
