"""Tests of the strategy contract. Run them on your own strategy.

With pytest::

    @pytest.mark.django_db(transaction=True)  # only if it stores sessions in Django's database
    class TestMyStrategy(StrategyContract):
        def make_strategy(self):
            return MyStrategy()

With unittest, inherit from ``StrategyContract`` and from one of Django's test cases. A strategy
that sets ``atomic = True`` is held to ``AtomicStrategyContract``, which adds the races.

Each test runs twice: with the sync verbs and, as ``..._async``, with their `a` twins.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from threading import Barrier, Lock
from typing import Any, TypeVar
from unittest import SkipTest, mock

from asgiref.sync import async_to_sync
from django.db import connections

from . import records
from .steps import Steps, arun, run
from .strategies.base import Apply, Data, SessionStrategy, Stored, StrategyUnavailable
from .values import flash_name

__all__ = ["AtomicStrategyContract", "StrategyContract"]

T = TypeVar("T")
Call = tuple[Any, ...]  # (verb, *arguments)
RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]

_USERS = uuid.uuid4()
UNKNOWN_ID = "AAAAAAAAAAAAAAAAAAAAAA"
EVERYTHING: Data = {
    "text": "plain",
    "unicode": "日本語 ñ 🙂",
    "nul": "a\0b",
    "surrogate": "\ud800",
    "quotes": "'\"\\%s;--\r\n",
    "empty": "",
    "none": None,
    "true": True,
    "one": 1,
    "zero": 0,
    "big": 2**70,
    "bigger": 10**400,
    "negative": -1,
    "float": 0.1,
    "exponent": 1e16,
    "minus zero": -0.0,
    "list": [1, [2, [3, {"deep": [None, False]}]]],
    "dict": {"b": 1, "a": {"": {}}},
    "": "an empty name",
    "__proto__": "names of methods are names like others",
    "ключ": "unicode name",
}


def _owner(number: int) -> str:
    """Return the primary key of a user whom no other test has."""
    return f"{_USERS}-{number}"


def later(seconds: float = 3600) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


class _Callers:
    """Runs the steps of a test: calls a strategy's verbs, and races them."""

    def __init__(self, strategy: SessionStrategy, run_async: RunAsync) -> None:
        self.strategy, self.run_async = strategy, run_async

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.strategy, verb)

    def race(self, *calls: Call) -> list[Any]:
        """Make all calls at once, each in its own thread. Return their results."""
        return self._race(lambda verb, *given: getattr(self, verb)(*given), calls)

    async def arace(self, *calls: Call) -> list[Any]:
        def call(verb: str, *given: Any) -> Any:
            return self.run_async(getattr(self, f"a{verb}")(*given))  # in its own event loop

        return self._race(call, calls)

    def clear(self, batch_size: int) -> list[int]:
        return list(self.strategy.clear_expired(batch_size))

    async def aclear(self, batch_size: int) -> list[int]:
        return [count async for count in self.strategy.aclear_expired(batch_size)]

    def _race(self, call: Callable[..., Any], calls: tuple[Call, ...]) -> list[Any]:
        start = Barrier(len(calls))

        def start_together(given: Call) -> Any:
            try:
                start.wait(30)
                return call(*given)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(len(calls)) as threads:
            return list(threads.map(start_together, calls))


class both_ways:  # noqa: N801  (a decorator)
    """Turn steps into a sync and an async test of the strategy that method `maker` returns."""

    def __init__(self, steps: Callable[[Any], Steps[None]], maker: str = "make_strategy") -> None:
        self.steps: Callable[[Any], Steps[None]] = steps
        self.maker: str = maker

    def __set_name__(self, owner: type, name: str) -> None:
        def test(contract: StrategyContract) -> None:
            if (strategy := getattr(contract, self.maker)()) is not None:
                run(_Callers(strategy, contract.run_async), self.steps(contract))

        def test_async(contract: StrategyContract) -> None:
            if (strategy := getattr(contract, self.maker)()) is not None:
                callers = _Callers(strategy, contract.run_async)
                contract.run_async(arun(callers, self.steps(contract)))

        setattr(owner, name, wraps(self.steps)(test))
        setattr(owner, f"{name}_async", wraps(self.steps)(test_async))


class StrategyContract:
    """What every strategy promises when only one writer is active."""

    def make_strategy(self) -> SessionStrategy:
        """Return the strategy under test, connected to a real store."""
        raise NotImplementedError("Define make_strategy() in your test class.")

    def make_unavailable_strategy(self) -> SessionStrategy | None:
        """Return the strategy with a store that cannot answer; ``None`` if yours always can."""
        raise SkipTest("Define make_unavailable_strategy() to prove what an outage does.")

    def run_async(self, test: Coroutine[Any, Any, T]) -> T:
        """Run an async test; by default with `async_to_sync`, as Django's test cases do.

        If your strategy behaves differently in a server's own event loop, add a second test class
        that returns ``asyncio.run(test)``.
        """

        async def main() -> T:
            return await test

        return async_to_sync(main)()

    # -- the four verbs ---------------------------------------------------------------------------

    @both_ways
    def test_what_was_created_is_read(self) -> Steps[None]:
        session_id = yield "create_data", EVERYTHING, later()
        read = yield "read_data", session_id
        assert read == EVERYTHING
        assert repr(read) == repr(EVERYTHING)  # types and order as well

    @both_ways
    def test_an_empty_session_is_not_an_absent_one(self) -> Steps[None]:
        session_id = yield "create_data", {}, later()
        assert (yield "read_data", session_id) == {}
        assert (yield "update_data", session_id, {}, later()) is True

    @both_ways
    def test_ids_are_new_each_time(self) -> Steps[None]:
        ids = []
        for number in range(30):
            ids.append((yield "create_data", {"number": number}, later()))
        assert all(isinstance(session_id, str) and len(session_id) >= 16 for session_id in ids)
        assert len(set(ids)) == len(ids), "an id was given out twice"
        for number, session_id in enumerate(ids):
            assert (yield "read_data", session_id) == {"number": number}

    @both_ways
    def test_an_unknown_id_is_none(self) -> Steps[None]:
        assert (yield "read_data", UNKNOWN_ID) is None
        assert (yield "load", UNKNOWN_ID) is None
        yield "delete_data", UNKNOWN_ID

    @both_ways
    def test_an_unknown_id_is_not_adopted(self) -> Steps[None]:
        gone = Stored(UNKNOWN_ID, {}, later())
        assert (yield "update_data", UNKNOWN_ID, {"a": 1}, later()) is False
        assert (yield "merge", gone, {"a": 1}, later()) is None
        assert (yield "rotate", gone, {"a": 1}, later()) is None
        assert (yield "read_data", UNKNOWN_ID) is None

    @both_ways
    def test_an_update_replaces_everything(self) -> Steps[None]:
        session_id = yield "create_data", {"a": 1, "b": 2}, later()
        assert (yield "update_data", session_id, {"b": 3}, later()) is True
        assert (yield "read_data", session_id) == {"b": 3}

    @both_ways
    def test_an_update_touches_no_other_session(self) -> Steps[None]:
        one = yield "create_data", {"a": 1}, later()
        other = yield "create_data", {"a": 2}, later()
        yield "update_data", one, {"a": 3}, later()
        yield "delete_data", one
        assert (yield "read_data", other) == {"a": 2}

    @both_ways
    def test_nothing_brings_back_what_was_deleted(self) -> Steps[None]:
        stored = yield "insert", {"a": 1}, later()
        session_id = stored.session_id
        assert (yield "delete_data", session_id) is None
        assert (yield "read_data", session_id) is None
        assert (yield "update_data", session_id, {"a": 2}, later()) is False
        assert (yield "merge", stored, {"a": 2}, later()) is None
        assert (yield "merge", stored, stored.data, later(7200)) is None
        assert (yield "rotate", stored, {"a": 2}, later()) is None
        assert (yield "read_data", session_id) is None
        assert (yield "load", session_id) is None
        assert (yield "delete_data", session_id) is None  # deleting it again is fine

    @both_ways
    def test_expired_is_the_same_as_missing(self) -> Steps[None]:
        for seconds in (-3600, -0.001):
            stored = yield "insert", {"a": 1}, later(seconds)
            session_id = stored.session_id
            assert (yield "read_data", session_id) is None
            assert (yield "load", session_id) is None
            assert (yield "update_data", session_id, {"a": 2}, later()) is False
            assert (yield "merge", stored, {"a": 2}, later()) is None
            assert (yield "rotate", stored, {"a": 2}, later()) is None
            assert (yield "read_data", session_id) is None

    @both_ways
    def test_an_update_moves_the_expiry_both_ways(self) -> Steps[None]:
        session_id = yield "create_data", {"a": 1}, later(60)
        assert (yield "update_data", session_id, {"a": 1}, later(7200)) is True
        assert (yield "read_data", session_id) == {"a": 1}
        assert (yield "update_data", session_id, {"a": 1}, later(-1)) is True
        assert (yield "read_data", session_id) is None

    @both_ways
    def test_data_is_not_shared_with_callers(self) -> Steps[None]:
        given: Data = {"cart": {"items": [1]}}
        session_id = yield "create_data", given, later()
        given["cart"]["items"].append(2)
        read = yield "read_data", session_id
        assert read == {"cart": {"items": [1]}}
        read["cart"]["items"].append(3)
        stored = yield "load", session_id
        assert stored.data == {"cart": {"items": [1]}}
        given = {"cart": {"items": [4]}}
        yield "update_data", session_id, given, later()
        given["cart"]["items"].append(5)
        assert (yield "read_data", session_id) == {"cart": {"items": [4]}}

    # -- the engine's verbs -----------------------------------------------------------------------

    @both_ways
    def test_load_tells_what_is_stored(self) -> Steps[None]:
        expires = later()
        inserted = yield "insert", EVERYTHING, expires
        loaded = yield "load", inserted.session_id
        assert loaded.session_id == inserted.session_id
        assert repr(loaded.data) == repr(inserted.data) == repr(EVERYTHING)
        self._check_times(inserted, expires)
        self._check_times(loaded, expires)

    @both_ways
    def test_created_survives_updates_and_rotation(self) -> Steps[None]:
        inserted = yield "insert", {"a": 1}, later()
        created = (yield "load", inserted.session_id).created
        merged = yield "merge", inserted, {"a": 2}, later(7200)
        assert (yield "load", inserted.session_id).created == created
        rotated = yield "rotate", merged, {"a": 3}, later(7200)
        assert (yield "load", rotated.session_id).created == created

    @both_ways
    def test_a_merge_without_conflict_writes_the_data(self) -> Steps[None]:
        stored = yield "insert", {"a": 1, "b": [1]}, later()
        merged = yield "merge", stored, {"b": [1, 2], "c": 3}, later()
        assert merged.session_id == stored.session_id
        assert merged.data == {"b": [1, 2], "c": 3}
        assert (yield "read_data", stored.session_id) == {"b": [1, 2], "c": 3}
        emptied = yield "merge", merged, {}, later()
        assert emptied.data == {}
        assert (yield "read_data", stored.session_id) == {}

    @both_ways
    def test_a_merge_can_move_only_the_expiry(self) -> Steps[None]:
        stored = yield "insert", {"a": 1}, later(60)
        expires = later(7200)
        self._check_times((yield "merge", stored, stored.data, expires), expires)
        loaded = yield "load", stored.session_id
        self._check_times(loaded, expires)
        assert loaded.data == {"a": 1}
        assert (yield "merge", loaded, loaded.data, later(-1)) is not None
        assert (yield "load", stored.session_id) is None

    @both_ways
    def test_a_merge_keeps_what_others_changed(self) -> Steps[None]:
        ours = yield "insert", {"a": 1, "b": 1, "c": 1, "d": 1}, later()
        theirs = yield "load", ours.session_id
        yield "merge", theirs, {"a": 2, "b": 1, "d": 1, "e": 2}, later()
        merged = yield "merge", ours, {"a": 1, "b": 3, "c": 1, "f": 3}, later()
        expected = {"a": 2, "b": 3, "e": 2, "f": 3}
        assert merged.data == expected
        assert (yield "read_data", ours.session_id) == expected

    @both_ways
    def test_of_one_name_the_last_write_wins(self) -> Steps[None]:
        ours = yield "insert", {"a": 1}, later()
        yield "merge", ours, {"a": 2, "new": 2}, later()
        yield "merge", ours, {"a": 3, "new": 3}, later()
        assert (yield "read_data", ours.session_id) == {"a": 3, "new": 3}

    @both_ways
    def test_removing_wins_over_changing(self) -> Steps[None]:
        ours = yield "insert", {"a": 1, "b": 1}, later()
        yield "merge", ours, {"b": 2}, later()
        yield "merge", ours, {"a": 3}, later()
        assert (yield "read_data", ours.session_id) == {}

    @both_ways
    def test_removing_a_flash_takes_only_what_was_seen(self) -> Steps[None]:
        seen, newer = flash_name("seen"), flash_name("newer")
        ours = yield "insert", {seen: "one", newer: "one"}, later()
        yield "merge", ours, {seen: "one", newer: "two"}, later()
        yield "merge", ours, {}, later()
        assert (yield "read_data", ours.session_id) == {newer: "two"}

    @both_ways
    def test_a_flash_outlives_the_removal_of_an_older_one(self) -> Steps[None]:
        name = flash_name("notice")
        ours = yield "insert", {name: "one"}, later()
        yield "merge", ours, {}, later()
        yield "merge", ours, {name: "two"}, later()
        assert (yield "read_data", ours.session_id) == {name: "two"}

    @both_ways
    def test_a_flash_that_was_removed_does_not_come_back(self) -> Steps[None]:
        name = flash_name("notice")
        ours = yield "insert", {name: "one"}, later()
        yield "merge", ours, {}, later()
        yield "merge", ours, {name: "one", "a": 1}, later()
        assert (yield "read_data", ours.session_id) == {"a": 1}

    @both_ways
    def test_an_expiry_that_others_set_stays(self) -> Steps[None]:
        ours = yield "insert", {"a": 1}, later(60)
        chosen = later(7200)
        yield "merge", ours, {"a": 1, "_session_expiry": 7200}, chosen
        merged = yield "merge", ours, {"a": 2}, later(60)
        assert merged.data == {"a": 2, "_session_expiry": 7200}
        if (yield "load", ours.session_id).expires is not None:
            self._check_times(merged, chosen)
            self._check_times((yield "load", ours.session_id), chosen)

    @both_ways
    def test_a_value_can_be_computed_from_the_stored_one(self) -> Steps[None]:
        ours = yield "insert", {"count": 1, "cart": [1]}, later()
        yield "merge", ours, {"count": 5, "cart": [1]}, later()
        data = {**ours.data, "count": Apply(lambda count: count + 1), "new": Apply(list, "ab")}
        merged = yield "merge", ours, data, later()
        assert merged.data == {"count": 6, "cart": [1], "new": ["a", "b"]}
        assert (yield "read_data", ours.session_id) == merged.data

    @both_ways
    def test_a_rotation_ends_the_old_id(self) -> Steps[None]:
        stored = yield "insert", {"a": 1}, later()
        rotated = yield "rotate", stored, {"a": 1, "b": 2}, later()
        assert rotated.session_id != stored.session_id
        assert rotated.data == {"a": 1, "b": 2}
        assert (yield "read_data", rotated.session_id) == {"a": 1, "b": 2}
        assert (yield "read_data", stored.session_id) is None
        assert (yield "update_data", stored.session_id, {"a": 3}, later()) is False
        assert (yield "rotate", stored, {"a": 3}, later()) is None
        merged = yield "merge", rotated, {"a": 4}, later()
        assert (yield "read_data", rotated.session_id) == merged.data == {"a": 4}
        assert (yield "load", stored.session_id) is None

    @both_ways
    def test_nobody_signs_in_to_a_session_that_others_know(self) -> Steps[None]:
        stored = yield "insert", {"a": 1}, later()
        rotated = yield "rotate", stored, {"a": 1}, later()
        assert (yield "merge", stored, {"_auth_user_id": "1"}, later()) is None
        assert (yield "rotate", stored, {"_auth_user_id": "1"}, later()) is None
        assert (yield "read_data", rotated.session_id) == {"a": 1}

    @both_ways
    def test_a_logout_leaves_nothing_to_follow(self) -> Steps[None]:
        stored = yield "insert", {"_auth_user_id": "1"}, later()
        rotated = yield "rotate", stored, stored.data, later()
        yield "delete_data", rotated.session_id
        assert (yield "merge", stored, {**stored.data, "late": 1}, later()) is None
        assert (yield "rotate", stored, stored.data, later()) is None
        assert (yield "read_data", rotated.session_id) is None

    @both_ways
    def test_a_rotation_keeps_what_others_changed(self) -> Steps[None]:
        ours = yield "insert", {"a": 1, "b": 1}, later()
        yield "merge", ours, {"a": 2, "b": 1}, later()
        rotated = yield "rotate", ours, {"a": 1, "b": 3}, later()
        assert (yield "read_data", rotated.session_id) == rotated.data == {"a": 2, "b": 3}

    # -- the sessions of an owner -----------------------------------------------------------------

    @both_ways
    def test_the_sessions_of_an_owner_are_found(self) -> Steps[None]:
        if not self.make_strategy().finds_owners:
            return
        yield "insert", {"_auth_user_id": _owner(2)}, later()
        yield "insert", {"a": 1}, later()
        yield "insert", {"_auth_user_id": _owner(1)}, later(-1)
        expires = later()
        phone = yield "insert", {"_auth_user_id": _owner(1), "on": "phone"}, expires
        yield "insert", {"_auth_user_id": _owner(1), "on": "desktop"}, later(7200)
        owned = {one.texts["on"]: one for one in (yield "find_owned", _owner(1))}
        assert sorted(owned) == ['"desktop"', '"phone"']
        assert abs(owned['"phone"'].expires - expires) < timedelta(milliseconds=2)
        assert phone.session_id not in repr(owned), "an entry tells the id"
        assert [owned['"phone"'].reference] == list((yield "references", phone))
        assert (yield "find_owned", _owner(3)) == []

    @both_ways
    def test_only_the_sessions_of_that_owner_end(self) -> Steps[None]:
        if not self.make_strategy().finds_owners:
            return
        mine = yield "insert", {"_auth_user_id": _owner(4), "n": 1}, later()
        kept = yield "insert", {"_auth_user_id": _owner(4), "n": 2}, later()
        others = yield "insert", {"_auth_user_id": _owner(5)}, later()
        references = [
            *(yield "references", mine),
            *(yield "references", others),
            "no reference of anything",
        ]
        assert (yield "end_owned", _owner(4), references) == 1
        assert (yield "read_data", mine.session_id) is None
        assert (yield "merge", mine, {**mine.data, "late": 1}, later()) is None
        assert (yield "read_data", kept.session_id) == kept.data
        assert (yield "read_data", others.session_id) == others.data
        assert (yield "end_owned", _owner(4), references) == 0

    @both_ways
    def test_a_rotation_leaves_one_session_of_the_owner(self) -> Steps[None]:
        if not self.make_strategy().finds_owners:
            return
        stored = yield "insert", {"_auth_user_id": _owner(6)}, later()
        (before,) = yield "find_owned", _owner(6)
        rotated = yield "rotate", stored, stored.data, later()
        (after,) = yield "find_owned", _owner(6)
        assert after.reference in (yield "references", stored)
        assert after.reference in (yield "references", rotated)
        assert (yield "end_owned", _owner(6), [before.reference]) == 1
        assert (yield "read_data", rotated.session_id) is None

    @both_ways
    def test_signing_in_makes_an_owner_and_signing_out_unmakes_one(self) -> Steps[None]:
        if not self.make_strategy().finds_owners:
            return
        stored = yield "insert", {"a": 1}, later()
        rotated = yield "rotate", stored, stored.data, later()
        merged = yield "merge", rotated, {"_auth_user_id": _owner(7)}, later()
        assert len((yield "find_owned", _owner(7))) == 1
        yield "merge", merged, {"a": 2}, later()
        assert (yield "find_owned", _owner(7)) == []

    @both_ways
    def test_a_session_is_found_under_the_user_who_impersonates_as_well(self) -> Steps[None]:
        if not self.make_strategy().finds_owners:
            return
        data = {"_auth_user_id": _owner(8), "hijack_history": [_owner(9)]}
        stored = yield "insert", data, later()
        for owner in (_owner(8), _owner(9)):
            assert len((yield "find_owned", owner)) == 1
        assert (yield "end_owned", _owner(9), (yield "references", stored)) == 1
        assert (yield "find_owned", _owner(8)) == []

    # -- cleaning up, outages ---------------------------------------------------------------------

    @both_ways
    def test_only_what_is_expired_is_cleared_in_batches(self) -> Steps[None]:
        strategy = self.make_strategy()
        if strategy.expires_by_itself:
            assert (yield "clear", 10) == []
            return
        live = yield "create_data", {"a": 1}, later()
        for _ in range(7):
            yield "create_data", {}, later(-10)
        try:
            counts = yield "clear", 3
        except NotImplementedError:
            return  # as in contrib.sessions, for stores that cannot clear
        assert sum(counts) == 7
        assert max(counts) <= 3
        assert (yield ("count_expired",)) == 0
        assert (yield "clear", 3) == []
        assert (yield "read_data", live) == {"a": 1}

    @partial(both_ways, maker="make_unavailable_strategy")
    def test_a_store_that_cannot_answer_never_says_that_a_session_is_gone(self) -> Steps[None]:
        stored = Stored(UNKNOWN_ID, {"a": 1}, later(), datetime.now(UTC))
        calls: tuple[Call, ...] = (
            ("create_data", {}, later()),
            ("read_data", UNKNOWN_ID),
            ("update_data", UNKNOWN_ID, {}, later()),
            ("delete_data", UNKNOWN_ID),
            ("load", UNKNOWN_ID),
            ("insert", {}, later()),
            ("merge", stored, {}, later()),
            ("rotate", stored, {}, later()),
        )
        for call in calls:
            try:
                answer = yield call
            except StrategyUnavailable as error:
                assert error.__cause__ is not None, f"{call[0]} does not chain the cause"
                assert UNKNOWN_ID not in str(error), f"{call[0]} tells the id"
            else:
                raise AssertionError(f"{call[0]} answered {answer!r}")

    def _check_times(self, stored: Stored, expires: datetime) -> None:
        """Check the times. A strategy may leave them out, but must not report wrong ones."""
        if stored.expires is not None:
            assert math.isclose(stored.expires.timestamp(), expires.timestamp(), abs_tol=0.002)
            assert stored.expires.utcoffset() == timedelta(0)
        if stored.created is not None:
            assert abs(stored.created - datetime.now(UTC)) < timedelta(minutes=5)
        assert stored.created is not None or not self.make_strategy().keeps_created


class AtomicStrategyContract(StrategyContract):
    """What a strategy with ``atomic = True`` promises as well: races lose nothing."""

    rounds = 10  # of each race

    @both_ways
    def test_it_says_that_it_is_atomic(self) -> Steps[None]:
        yield "load", UNKNOWN_ID
        assert self.make_strategy().atomic

    @both_ways
    def test_a_save_in_flight_follows_a_rotation(self) -> Steps[None]:
        stored = yield "insert", {"_auth_user_id": "1", "a": 1}, later()
        rotated = yield "rotate", stored, stored.data, later()
        late = yield "merge", stored, {**stored.data, "late": 1}, later()
        joined = yield "rotate", stored, {**stored.data, "later": 1}, later()
        assert late.followed
        assert joined.followed
        written = {**stored.data, "late": 1, "later": 1}
        assert (yield "read_data", rotated.session_id) == written
        assert (yield "read_data", stored.session_id) is None

    @both_ways
    def test_nobody_signs_in_after_following_a_rotation(self) -> Steps[None]:
        stored = yield "insert", {"a": 1}, later()
        rotated = yield "rotate", stored, {"a": 1}, later()
        late = yield "merge", stored, {"a": 1, "late": 1}, later()
        assert (yield "merge", late, {"_auth_user_id": "1"}, later()) is None
        assert (yield "rotate", late, late.data, later()) is None
        assert (yield "read_data", rotated.session_id) == {"a": 1, "late": 1}

    @both_ways
    def test_a_logout_in_flight_ends_what_was_rotated(self) -> Steps[None]:
        stored = yield "insert", {"_auth_user_id": "1"}, later()
        rotated = yield "rotate", stored, stored.data, later()
        yield "end", stored
        assert (yield "read_data", rotated.session_id) is None

    @both_ways
    def test_writers_of_different_names_all_keep_theirs(self) -> Steps[None]:
        for _ in range(self.rounds):
            stored = yield "insert", {"base": 0}, later()
            names = {f"name {number}": number for number in range(8)}
            merged = yield (
                "race",
                *(("merge", stored, {"base": 0, name: names[name]}, later()) for name in names),
            )
            assert None not in merged
            assert (yield "read_data", stored.session_id) == {"base": 0, **names}

    @both_ways
    def test_writers_of_one_name_leave_a_value_that_one_wrote(self) -> Steps[None]:
        for _ in range(self.rounds):
            stored = yield "insert", {"a": 0, "b": 0}, later()
            yield (
                "race",
                *(("merge", stored, {"a": [n], "b": {"n": n}}, later()) for n in range(1, 5)),
            )
            read = yield "read_data", stored.session_id
            assert read["a"][0] in range(1, 5)
            assert read["b"]["n"] == read["a"][0], "a mixture of two writes of the same names"

    @both_ways
    def test_computed_values_lose_no_step(self) -> Steps[None]:
        stored = yield "insert", {"count": 0}, later()
        for _ in range(self.rounds):
            data = {"count": Apply(lambda count: count + 1)}
            yield ("race", *(("merge", stored, data, later()) for _ in range(8)))
        assert (yield "read_data", stored.session_id) == {"count": 8 * self.rounds}

    @both_ways
    def test_creators_that_draw_one_id_make_two_sessions(self) -> Steps[None]:
        drawn: list[str] = []
        real, lock = records.new_id, Lock()

        def twice_each() -> str:
            with lock:
                drawn.append(drawn[-1] if len(drawn) % 2 else real())
                return drawn[-1]

        for _ in range(self.rounds):
            with mock.patch.object(records, "new_id", twice_each):
                stored = yield ("race", *(("insert", {"n": n}, later()) for n in range(4)))
            assert len({one.session_id for one in stored}) == 4
            for number, one in enumerate(stored):
                assert (yield "read_data", one.session_id) == {"n": number}

    @both_ways
    def test_a_save_that_races_a_delete_never_revives(self) -> Steps[None]:
        for number in range(self.rounds * 2):
            stored = yield "insert", {"a": 1}, later()
            session_id = stored.session_id
            save: Call = ("merge", stored, {"a": 2}, later())
            if number % 2:
                save = ("update_data", session_id, {"a": 2}, later())
            yield "race", save, ("delete_data", session_id), save
            assert (yield "read_data", session_id) is None
            assert (yield "merge", stored, {"a": 3}, later()) is None

    @both_ways
    def test_of_two_rotations_one_wins(self) -> Steps[None]:
        for _ in range(self.rounds):
            stored = yield "insert", {"a": 1}, later()
            rotated = yield ("race", *(("rotate", stored, {"a": n}, later()) for n in range(3)))
            (winner,) = [one for one in rotated if one is not None]
            assert (yield "read_data", winner.session_id) == winner.data
            assert (yield "read_data", stored.session_id) is None

    @both_ways
    def test_a_save_that_races_a_rotation_is_kept(self) -> Steps[None]:
        for _ in range(self.rounds * 2):
            stored = yield "insert", {"a": 1}, later()
            merged, rotated = yield (
                "race",
                ("merge", stored, {"a": 1, "cart": 1}, later()),
                ("rotate", stored, {"a": 1, "user": 1}, later()),
            )
            assert rotated is not None
            assert merged is not None
            kept = {"a": 1, "cart": 1, "user": 1}
            assert (yield "read_data", rotated.session_id) == kept
            assert (yield "read_data", stored.session_id) is None

    @both_ways
    def test_a_rotation_that_races_a_delete_leaves_no_old_id(self) -> Steps[None]:
        for _ in range(self.rounds):
            stored = yield "insert", {"a": 1}, later()
            rotated, _none = yield (
                "race",
                ("rotate", stored, {"a": 2}, later()),
                ("delete_data", stored.session_id),
            )
            assert (yield "read_data", stored.session_id) is None
            if rotated is not None:
                assert (yield "read_data", rotated.session_id) == {"a": 2}

    @both_ways
    def test_a_session_that_ends_while_it_rotates_or_is_saved_has_ended(self) -> Steps[None]:
        if not self.make_strategy().finds_owners:
            return
        for number in range(self.rounds * 2):
            owner = _owner(100 + number)
            stored = yield "insert", {"_auth_user_id": owner}, later()
            references = yield "references", stored
            written = yield (
                "race",
                ("rotate", stored, stored.data, later()),
                ("end_owned", owner, references),
                ("merge", stored, {**stored.data, "late": 1}, later()),
            )
            assert (yield "find_owned", owner) == []
            for one in written[::2]:
                if one is not None:
                    assert (yield "read_data", one.session_id) is None

    @both_ways
    def test_two_cleanups_at_once_add_up(self) -> Steps[None]:
        if self.make_strategy().expires_by_itself:
            return
        for _ in range(40):
            yield "create_data", {}, later(-10)
        counts = yield "race", ("clear", 3), ("clear", 3)
        assert sum(map(sum, counts)) == 40
        assert (yield ("count_expired",)) == 0
