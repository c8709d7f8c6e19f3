"""Requests that pause at any point never bring an older copy of a session back.

Each request is a series of questions to the cache and to the store. Here two requests take theirs
in every order, and three in many. Once a request is done, another process must see what it wrote.
"""

from __future__ import annotations

import random
from itertools import combinations_with_replacement

import pytest

from django_strategy_sessions.strategies.base import as_texts
from django_strategy_sessions.strategies.cached import CachedStrategy
from django_strategy_sessions.strategies.sealed import SealedStrategy
from django_strategy_sessions.testing import later

from ..conftest import DATABASE, REDIS

pytestmark = pytest.mark.django_db(transaction=True)

KINDS = ("read", "write a", "write b", "rotate", "logout")
PAIRS = [pair for pair in combinations_with_replacement(KINDS, 2) if pair != ("read", "read")]
EVICTION = "return redis.call('DEL', KEYS[2])"
# Of a request that meets no other: to the cache, to the store, to the cache. A reader that finds no
# copy asks the cache twice before the store.
QUESTIONS = dict.fromkeys(KINDS, 3) | {"read": 4}
TRIPLES = 100  # orders of three requests
QUESTIONED = {"find_in_cache", "in_cache", "in_store"}
VERBS = {
    "get": lambda strategy, *given: strategy._get(*given),
    "swap": lambda strategy, key, held, row: strategy._write_through(
        key, row, SealedStrategy.swap, key, held, row
    ),
    "move": lambda strategy, key, *rows: strategy._write_through(
        key, None, SealedStrategy.move, key, *rows
    ),
    "remove": lambda strategy, key: strategy._write_through(key, None, SealedStrategy.remove, key),
}


@pytest.fixture
def processes():
    """The strategy as each of four processes has it."""
    return [CachedStrategy(cache=REDIS, store=DATABASE) for _ in range(4)]


class Request:
    def __init__(self, kind, strategy, stored):
        self.kind, _, self.name = kind.partition(" ")
        self.strategy, self.stored, self.answer, self.is_done = strategy, stored, None, False
        self.asked = []
        steps = {
            "read": lambda: strategy._load(stored.session_id),
            "write": lambda: strategy._save(
                stored, as_texts({**stored.data, self.name: 1}), later(), rotating=False
            ),
            "rotate": lambda: strategy._save(stored, as_texts(stored.data), later(), rotating=True),
            "logout": lambda: strategy._delete(stored.session_id),
            "evict": lambda: strategy._ask(EVICTION, strategy._names(stored.token.key)),
        }
        self.steps = flat(strategy, steps[self.kind]())
        self.go_on()

    def go_on(self):
        """Ask one question, up to the next one."""
        try:
            self.asked.append(next(self.steps))
        except StopIteration as stop:
            self.answer, self.is_done = stop.value, True

    def repeat(self, number):
        """Its `number`th question that may change the cache arrives once more, over a slow
        connection. A reader that found a copy has asked none."""
        if asked := [arguments for verb, *arguments in self.asked if verb == "in_cache"]:
            self.strategy.in_cache(*asked[number % len(asked)])

    def is_kept(self, strategy):
        """Whether another process sees what this request has done."""
        seen = strategy.load(self.stored.session_id)
        if self.kind == "logout" or (self.kind == "rotate" and self.answer):
            return seen is None
        if self.kind == "write" and self.answer and not self.answer.followed:
            return seen is None or self.name in seen.data
        return True


def flat(strategy, steps):
    """Yield each question to the cache or to the store before it is asked, however deep."""
    answer = None
    while True:
        try:
            verb, *arguments = steps.send(answer)
        except StopIteration as stop:
            return stop.value
        if verb in VERBS:
            answer = yield from flat(strategy, VERBS[verb](strategy, *arguments))
        else:
            if verb in QUESTIONED:
                yield verb, *arguments
            answer = getattr(strategy, verb)(*arguments)


def orders(*counts):
    """Every order of that many questions of each request."""
    if not any(counts):
        yield ()
    for number, count in enumerate(counts):
        if count:
            left = [*counts[:number], count - 1, *counts[number + 1 :]]
            yield from ((number, *order) for order in orders(*left))


def run_in(order, kinds, processes, has_copy, watched, late=None):
    """`late`: which question of the first request arrives once more, where `order` says so."""
    *processes, other = processes
    stored = other.insert({"here": 1}, later())
    if has_copy:
        assert other.load(stored.session_id) is not None
    requests = [Request(*each, stored) for each in zip(kinds, processes, strict=False)]
    for number in [*order, *list(range(len(kinds))) * 50]:
        if number == len(requests):
            requests[0].repeat(late)
        elif not requests[number].is_done:
            requests[number].go_on()
            done = [request for request in requests if request.is_done]
            if watched or len(done) == len(requests):
                broken = [request.kind for request in done if not request.is_kept(other)]
                assert not broken, (order, kinds)
    assert all(request.is_done for request in requests)


@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
@pytest.mark.parametrize("has_copy", [True, False], ids=["copied", "not copied"])
def test_two_requests_in_every_order(processes, kinds, has_copy):
    for order in orders(*map(QUESTIONS.get, kinds)):
        for watched in (True, False):
            run_in(order, kinds, processes, has_copy, watched)


def test_three_requests_in_many_orders(processes):
    chance = random.Random(15)
    for _ in range(TRIPLES):
        kinds = chance.choices(KINDS, k=3)
        order = [number for number, kind in enumerate(kinds) for _ in range(QUESTIONS[kind])]
        chance.shuffle(order)
        run_in(order, kinds, processes, chance.random() < 0.5, chance.random() < 0.5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "read"])
def test_two_requests_in_every_order_while_a_full_cache_drops_what_they_left(processes, kind):
    every = list(orders(QUESTIONS["read"], QUESTIONS[kind], 1))
    for order in random.Random(15).sample(every, TRIPLES // 2):
        run_in(order, ("read", kind, "evict"), processes, True, False)


@pytest.mark.parametrize("first", ["read", "write a"])
@pytest.mark.parametrize("second", ["write b", "rotate", "logout"])
def test_two_requests_in_every_order_while_a_first_question_arrives_once_more(
    processes, first, second
):
    """At the worst moment: before the last question of the request that asked it."""
    processes[-1].load(processes[-1].insert({}, later()).session_id)  # takes a lease
    for order in orders(QUESTIONS[first], QUESTIONS[second]):
        last = len(order) - 1 - order[::-1].index(0)
        order = (*order[:last], 2, *order[last:])
        run_in(order, (first, second), processes, False, False, late=0)
