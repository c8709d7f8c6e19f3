"""The contract suites catch strategies that are broken on purpose, each in one way."""

from __future__ import annotations

import itertools
import json
import time
from datetime import UTC, datetime

import pytest

from django_strategy_sessions import records
from django_strategy_sessions.steps import run
from django_strategy_sessions.strategies.base import (
    Owned,
    SessionStrategy,
    Stored,
    StrategyUnavailable,
    as_texts,
    reconcile,
)
from django_strategy_sessions.strategies.memory import MemoryStrategy
from django_strategy_sessions.testing import AtomicStrategyContract, StrategyContract


class DictStrategy(SessionStrategy):
    """The four verbs and nothing else, rightly: what the ones below break."""

    def __init__(self):
        self.rows = {}

    def create_data(self, data, expires):
        session_id = records.new_id()
        self.rows[session_id] = json.dumps(data), expires
        return session_id

    def read_data(self, session_id):
        text, expires = self.rows.get(session_id, (None, None))
        return json.loads(text) if text and expires > datetime.now(UTC) else None

    def update_data(self, session_id, data, expires):
        if self.read_data(session_id) is None:
            return False
        self.rows[session_id] = json.dumps(data), expires
        return True

    def delete_data(self, session_id):
        self.rows.pop(session_id, None)


class Unreachable(DictStrategy):
    """What stands in for a store that is down, where only the four verbs are under test."""

    def _fail(self, *args):
        raise StrategyUnavailable("down") from OSError("refused")

    create_data = read_data = update_data = delete_data = _fail


class AdoptsUnknownIds(DictStrategy):
    def update_data(self, session_id, data, expires):
        self.rows[session_id] = json.dumps(data), expires
        return True


class SaysUpdatedWhenGone(DictStrategy):
    def update_data(self, session_id, data, expires):
        return super().update_data(session_id, data, expires) or True


class ForgetsExpiry(DictStrategy):
    def read_data(self, session_id):
        text, _expires = self.rows.get(session_id, (None, None))
        return json.loads(text) if text else None


class KeepsTheFirstExpiry(DictStrategy):
    def update_data(self, session_id, data, expires):
        _text, first = self.rows.get(session_id, (None, expires))
        return super().update_data(session_id, data, first)


class RevivesExpired(DictStrategy):
    def update_data(self, session_id, data, expires):
        if session_id not in self.rows:
            return False
        self.rows[session_id] = json.dumps(data), expires
        return True


class KeepsWhatWasDeleted(DictStrategy):
    def delete_data(self, session_id):
        pass


class RaisesOnSecondDelete(DictStrategy):
    def delete_data(self, session_id):
        del self.rows[session_id]


class RaisesWhenMissing(DictStrategy):
    def read_data(self, session_id):
        return json.loads(self.rows[session_id][0])


class SharesMutableState(DictStrategy):
    def create_data(self, data, expires):
        session_id = records.new_id()
        self.rows[session_id] = data, expires
        return session_id

    def read_data(self, session_id):
        data, expires = self.rows.get(session_id, (None, None))
        return data if data is not None and expires > datetime.now(UTC) else None

    def update_data(self, session_id, data, expires):
        if self.read_data(session_id) is None:
            return False
        self.rows[session_id] = data, expires
        return True


class RepeatsIds(DictStrategy):
    def create_data(self, data, expires):
        session_id = f"session-number-{len(self.rows) // 2:04}"
        self.rows[session_id] = json.dumps(data), expires
        return session_id


class CountsItsIds(DictStrategy):
    numbers = itertools.count()

    def create_data(self, data, expires):
        session_id = str(next(self.numbers))
        self.rows[session_id] = json.dumps(data), expires
        return session_id


class TakesEmptyForAbsent(DictStrategy):
    def read_data(self, session_id):
        return super().read_data(session_id) or None


class MergesIntoWhatWasThere(DictStrategy):
    def update_data(self, session_id, data, expires):
        return super().update_data(
            session_id, {**(self.read_data(session_id) or {}), **data}, expires
        )


class LosesTypes(DictStrategy):
    def create_data(self, data, expires):
        return super().create_data(
            {name: str(value) if value == 1 else value for name, value in data.items()}, expires
        )


class SortsNames(DictStrategy):
    def create_data(self, data, expires):
        return super().create_data(dict(sorted(data.items())), expires)


class AnswersNoneOnFailure(Unreachable):
    def read_data(self, session_id):
        return None


class HidesTheCause(Unreachable):
    def delete_data(self, session_id):
        raise StrategyUnavailable("down")


class LosesConcurrentNames(DictStrategy):
    def merge(self, stored, data, expires):
        kept = self.update_data(stored.session_id, data, expires)
        return Stored(stored.session_id, as_texts(data), expires) if kept else None


class LeavesTheOldIdAlive(DictStrategy):
    def rotate(self, stored, data, expires):
        current = self.load(stored.session_id)
        return current and self.insert(*reconcile(stored, as_texts(data), expires, current))


class RotatesWhatIsGone(DictStrategy):
    def rotate(self, stored, data, expires):
        self.delete_data(stored.session_id)
        return self.insert(data, expires)


FOUR_VERBS = [
    AdoptsUnknownIds,
    SaysUpdatedWhenGone,
    ForgetsExpiry,
    KeepsTheFirstExpiry,
    RevivesExpired,
    KeepsWhatWasDeleted,
    RaisesOnSecondDelete,
    RaisesWhenMissing,
    SharesMutableState,
    RepeatsIds,
    CountsItsIds,
    TakesEmptyForAbsent,
    MergesIntoWhatWasThere,
    LosesTypes,
    SortsNames,
    LosesConcurrentNames,
    LeavesTheOldIdAlive,
    RotatesWhatIsGone,
]


class WithoutLock(MemoryStrategy):
    """Each verb right by itself, and none of them one step: what races find."""

    def swap(self, key, held, row):
        if not self._holds(key, held):
            return False
        time.sleep(0.001)  # lets another thread in
        self._rows[key] = row
        return True


class RotatesTwice(MemoryStrategy):
    def move(self, key, held, marker, new_key, row):
        if not self._holds(key, held):
            return False
        time.sleep(0.001)
        self._rows.update({key: marker, new_key: row})
        return True


class OverwritesOnCollision(MemoryStrategy):
    def add(self, key, row):
        self._rows[key] = row
        return True


class UnlockedCleanup(MemoryStrategy):
    def clear_expired(self, batch_size):
        while expired := self._list_expired()[:batch_size]:
            time.sleep(0.001)
            for key in expired:
                self._rows.pop(key, None)
            yield len(expired)


class ClaimsToBeAtomic(DictStrategy):
    atomic = True


RACES = [WithoutLock, RotatesTwice, OverwritesOnCollision, UnlockedCleanup, ClaimsToBeAtomic]


class FindsEverybody(MemoryStrategy):
    def find_owned(self, owner):
        keys = list(self._rows)
        return [
            Owned(key, stored.texts, stored.expires, stored.created)
            for key in keys
            if (stored := run(self, self._open("", key, self._rows[key]))) is not None
        ]


class ForgetsImpersonators(MemoryStrategy):
    def find(self, owner):
        return {key: row for key, row in super().find(owner).items() if row.owner == owner}


class EndsSessionsOfOthers(MemoryStrategy):
    def end_owned(self, owner, references):
        return sum(self.remove(reference) for reference in references)


class MissesRotations(MemoryStrategy):
    """Ends what it was told to, under the keys of that moment."""

    def end_owned(self, owner, references):
        theirs = {one.reference for one in self.find_owned(owner)}
        return sum(self.remove(reference) for reference in theirs.intersection(references))


class KeepsExpiredOwners(MemoryStrategy):
    def find_owned(self, owner):
        return [
            Owned(key, records.unseal(key, row.record), row.expires, row.created)
            for key, row in self.find(owner).items()
        ]


class TellsTheId(MemoryStrategy):
    def _insert(self, texts, expires):
        stored = yield from super()._insert(texts, expires)
        self._ids = {**getattr(self, "_ids", {}), records.hashed(stored.session_id): stored}
        return stored

    def find_owned(self, owner):
        return [
            one._replace(reference=str(self._ids[one.reference].session_id))
            if one.reference in self._ids
            else one
            for one in super().find_owned(owner)
        ]


OWNERS = [
    FindsEverybody,
    ForgetsImpersonators,
    EndsSessionsOfOthers,
    MissesRotations,
    KeepsExpiredOwners,
    TellsTheId,
]


def failures(contract, strategy_class, unavailable_class=Unreachable):
    """The names of the contract's tests that a strategy fails."""

    class Tests(contract):
        def make_strategy(self):
            return strategy_class()

        def make_unavailable_strategy(self):
            return unavailable_class()

    failed = []
    for name in dir(Tests):
        if name.startswith("test_"):
            try:
                getattr(Tests(), name)()
            except Exception:
                failed.append(name)
    return failed


def test_the_unbroken_ones_pass():
    assert failures(StrategyContract, DictStrategy) == []
    assert failures(AtomicStrategyContract, MemoryStrategy) == []


@pytest.mark.parametrize("strategy", FOUR_VERBS)
def test_a_broken_strategy_is_caught_sync_and_async(strategy):
    failed = failures(StrategyContract, strategy)
    assert [name for name in failed if not name.endswith("_async")]
    assert [name for name in failed if name.endswith("_async")]


@pytest.mark.parametrize("strategy", [AnswersNoneOnFailure, HidesTheCause])
def test_an_outage_that_is_reported_wrongly_is_caught(strategy):
    outage = "test_a_store_that_cannot_answer_never_says_that_a_session_is_gone"
    failed = failures(StrategyContract, DictStrategy, unavailable_class=strategy)
    assert failed == [outage, f"{outage}_async"]


@pytest.mark.parametrize("strategy", OWNERS)
def test_a_strategy_that_mistakes_owners_is_caught(strategy):
    assert failures(StrategyContract, strategy)


@pytest.mark.parametrize("strategy", RACES)
def test_a_race_is_caught(strategy, monkeypatch):
    monkeypatch.setattr(AtomicStrategyContract, "rounds", 30)
    alone = failures(StrategyContract, strategy)
    assert alone == []  # right, as long as nothing else happens
    assert failures(AtomicStrategyContract, strategy)
