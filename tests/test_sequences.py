"""Random sequences of calls, of up to three requests in one session, against a model of the rules.

1,500 of them, unless ``TEST_SEQUENCES`` says how many: 100,000 take about seven minutes.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import pytest
import time_machine
from django.contrib.sessions.exceptions import SessionInterrupted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_strategy_sessions import create_session_storage, records
from django_strategy_sessions.strategies.memory import MemoryStrategy

NAMES = st.sampled_from(["a", "b"])
VALUES = st.sampled_from([None, 0, 1, True, "x", [], ["y"], {"z": [1]}]).map(
    lambda value: copied(value)
)
REQUESTS = st.integers(0, 2)
CALLS = st.one_of(
    st.tuples(st.just("get"), REQUESTS, NAMES),
    st.tuples(st.just("has"), REQUESTS, NAMES),
    st.tuples(st.just("unset"), REQUESTS, NAMES),
    st.tuples(st.sampled_from(["set", "flash"]), REQUESTS, NAMES, VALUES),
    st.tuples(st.just("append"), REQUESTS, NAMES),
    st.tuples(st.sampled_from(["begin", "commit", "rotate", "destroy"]), REQUESTS),
)


class Request:
    """The model: what was loaded, and what it has become."""

    def __init__(self, row=None, base=None):
        self.row, self.base, self.data = row, base or {}, copied(base or {})

    def get(self, name):
        if name in self.data:
            return self.data[name]
        return self.data.pop(f"__flash_{name}__", None)

    def has(self, name):
        return name in self.data or f"__flash_{name}__" in self.data

    def set(self, name, value):
        self.data[name] = copied(value)

    def flash(self, name, value):
        self.data[f"__flash_{name}__"] = copied(value)

    def unset(self, name):
        self.data.pop(name, None)

    def is_unchanged(self):
        return text(self.data) == text(self.base)

    def merged(self, theirs):
        result = copied(theirs)
        for name, value in self.data.items():
            there = name in theirs or name.startswith("__flash_")
            if name not in self.base or (there and text(value) != text(self.base[name])):
                result[name] = copied(value)
        for name in self.base.keys() - self.data.keys():
            newer = text(theirs.get(name)) != text(self.base[name])
            if not (name.startswith("__flash_") and newer):
                result.pop(name, None)
        return result


def copied(value):
    return json.loads(json.dumps(value))


def text(value):
    return json.dumps(value, sort_keys=True)


class Both:
    """The storage and the model, side by side."""

    def __init__(self):
        self.storage = create_session_storage(MemoryStrategy())
        self.rows, self.cookie = {}, None
        self.moved = {}  # by rotations
        self.requests = [(self.storage.get_session(), Request()) for _ in range(3)]

    def begin(self, number):
        session = self.storage.get_session(self.cookie)
        row = session.id or None
        assert (row in self.rows) == (row is not None)
        self.requests[number] = session, Request(row, self.rows.get(row))

    def commit(self, number, *, rotate=False):
        session, model = self.requests[number]
        if model.row is None and not model.data:
            assert self.storage.commit_session(session, rotate=rotate).startswith("__session=;")
            return
        row, is_elsewhere = self.place(model.row), model.row in self.moved
        if model.row is not None and (row not in self.rows or (rotate and is_elsewhere)):
            with pytest.raises(SessionInterrupted):
                self.storage.commit_session(session, rotate=rotate)
            return
        cookie = self.storage.commit_session(session, rotate=rotate).partition(";")[0]
        assert (cookie == "") == is_elsewhere
        self.cookie = cookie or self.cookie
        if row is not None and not is_elsewhere and not rotate and model.is_unchanged():
            return
        data = model.data if row is None else model.merged(self.rows[row])
        if rotate and row is not None:
            del self.rows[row]
            self.moved[row] = session.id
        elif row is not None:
            assert session.id == model.row
        self.rows[row if is_elsewhere else session.id] = data
        self.requests[number] = session, Request(session.id, data)

    def place(self, row):
        """Under which id the session is now."""
        while row in self.moved:
            row = self.moved[row]
        return row

    def rotate(self, number):
        self.commit(number, rotate=True)

    def destroy(self, number):
        session, model = self.requests[number]
        self.storage.destroy_session(session)
        self.rows.pop(self.place(model.row), None)
        self.requests[number] = session, Request()

    def append(self, number, name):
        for each in self.requests[number]:
            if isinstance(value := each.get(name), list):
                value.append("more")

    def call(self, verb, number, *given):
        if hasattr(self, verb):
            getattr(self, verb)(number, *given)
        else:
            session, model = self.requests[number]
            answers = [getattr(each, verb)(*given) for each in (session, model)]
            assert text(answers[0]) == text(answers[1])
        self.compare()

    def compare(self):
        for session, model in self.requests:
            assert (session.id or None) == model.row
            assert text(session.data) == text(model.data)
        for row, data in self.rows.items():
            assert text(self.storage.strategy.read_data(row)) == text(data)
        rows = self.storage.strategy._rows.values()
        assert sum(not records.is_moved(row.record) for row in rows) == len(self.rows)


@settings(
    max_examples=int(os.environ.get("TEST_SEQUENCES", "1500")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(CALLS, min_size=1, max_size=20))
def test_a_storage_does_what_the_model_says(calls):
    with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC), tick=False):
        both = Both()
        for call in calls:
            both.call(*call)
