"""Requests that race for one session lose nothing that was acknowledged, and revive nothing.

In threads, in one event loop, and in four processes of either, on real stores. ``TEST_RACES``
multiplies the rounds; with ``full`` they come to 20,000 writes, 10,000 logouts, 5,000 rotations,
5,000 times "sign out everywhere". What was counted is logged:
``--log-file=figures.txt --log-file-level=INFO``.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter
from contextlib import closing

import pytest
from django.contrib.auth.models import User

from django_strategy_sessions import sessions_of
from django_strategy_sessions.engine import SessionStore

from .conftest import CACHED, POSTGRES, REDIS
from .racers import WAYS, Processes, rounds

ROUNDS = rounds(4, full=500)
WRITERS = 40  # of one session, in one round
SESSIONS = 20  # in one round, where few requests race for each
WRITES = ("write", "add")
REFUSALS = ("UpdateError", "StrategyUnavailable")
STORES = {"postgres": POSTGRES, "redis": REDIS, "cached": CACHED}
USUAL_WAYS = {"threads"}  # of the cache: the store decides its writes

log = logging.getLogger(__name__)

pytestmark = pytest.mark.django_db(transaction=True, databases=["postgres"])


def saved(**data):
    session = SessionStore()
    session.update(data)
    session.save()
    return session.session_key


def held(key):
    return SessionStore(key).load()


def counted(answers, **more):
    """How requests ended: acknowledged, or with an error. `wrong`: promises that were broken."""
    return Counter(error or "acknowledged" for error, _key, _seen in answers) + Counter(more)


# -- the races: of each, one round -----------------------------------------------------------------


def different_names(make):
    """Each request adds, changes or removes a name of its own."""
    wanted = {f"name {n}": n if n % 4 else None for n in range(WRITERS)}
    key = saved(**dict.fromkeys(list(wanted)[::2], "old"))
    answers = make([["write", key, {name: value}] for name, value in wanted.items()])
    now = held(key)
    lost = [
        name
        for (name, value), (error, *_) in zip(wanted.items(), answers, strict=True)
        if not error and now.get(name) != value
    ]
    return counted(answers, wrong=len(lost))


def one_name(make):
    """All requests write the same two names, and return what both were before."""
    values = [{"n": n, "text": str(n) * 50} for n in range(WRITERS)]
    key = saved(one=None, two=None)
    answers = make([["exchange", key, value] for value in values])
    now = held(key)
    seen = [pair for error, _key, pair in answers if not error]
    mixed = [
        one
        for one, two in [*seen, (now["one"], now["two"])]
        if one != two or one not in [None, *values]
    ]
    return counted(answers, wrong=len(mixed) + bool(seen and now["one"] is None))


def computed(make):
    """Each request adds one, and returns the sum."""
    key = saved(count=0)
    answers = make([["add", key, "count"] for _ in range(WRITERS)])
    sums = [made for error, _key, made in answers if not error]
    twice = len(sums) - len(set(sums))
    return counted(answers, wrong=max(twice, len(sums) - held(key)["count"]))


def logouts(make):
    """Two requests write and one reads while one logs out, which is the first to begin, or not."""
    keys = [saved(user="ada") for _ in range(SESSIONS)]
    requests = []
    for n, key in enumerate(keys):
        four = [["write", key, {"a": n}], ["logout", key], ["read", key, "a"], ["add", key, "b"]]
        requests += four[n % 4 :] + four[: n % 4]
    answers = make(requests)
    done = [
        (kind, key, now_key)
        for (kind, key, *_), (error, now_key, _seen) in zip(requests, answers, strict=True)
        if not error
    ]
    ended = [key for kind, key, _ in done if kind == "logout"]
    # A request that finds no session creates one, with nothing of the old one in it.
    anew = [now_key for kind, key, now_key in done if kind in WRITES and now_key != key]
    wrong = sum(SessionStore().exists(key) for key in ended)
    wrong += sum("user" in held(key) for key in anew)
    return counted(answers, wrong=wrong, logouts=len(ended), anew=len(anew))


def rotations(make):
    """Five requests write while one logs in, which begins before, after or between them."""
    keys = [saved(cart=n) for n in range(SESSIONS // 2)]
    requests = []
    for n, key in enumerate(keys):
        writes = [["write", key, {name: n}] for name in "abcde"]
        requests += [*writes[: n % 6], ["login", key, "ada"], *writes[n % 6 :]]
    answers = make(requests)
    done = [
        (kind, key, change, now_key)
        for (kind, key, change), (error, now_key, _seen) in zip(requests, answers, strict=True)
        if not error
    ]
    now = {key: held(now_key) for kind, key, _, now_key in done if kind == "login"}
    wrong, anew = sum(SessionStore().exists(key) for key in now), 0
    for key, data in now.items():
        expected = {"cart": keys.index(key), "before": "ada", "user": "ada"}
        wrong += not expected.items() <= data.items()
    for kind, key, change, now_key in done:
        if kind == "write" and now_key != key:  # found nothing, and began anew
            anew += 1
            wrong += held(now_key) != change
        elif kind == "write" and key in now:
            wrong += not change.items() <= now[key].items()
    return counted(answers, wrong=wrong, rotations=len(now), anew=anew)


def sign_outs(make):
    """A user signs out everywhere while each of their sessions is saved and rotated, and while they
    sign in once more."""
    # Numbers that no earlier run has used, because Redis remembers its sessions.
    owners = [str(uuid.uuid4().int % 10**15) for _ in range(SESSIONS // 2)]
    keys = {owner: [saved(_auth_user_id=owner) for _ in range(2)] for owner in owners}
    requests, before = [], {}
    for n, owner in enumerate(owners):
        theirs = [["sign_in", saved(cart=n), owner]]
        for key in keys[owner]:
            theirs += [["write", key, {"a": n}], ["rotate", key]]
            before[key] = owner
        requests += [*theirs[: n % 6], ["everywhere", "", owner], *theirs[n % 6 :]]
    answers = make(requests)
    wrong, signed_in = 0, Counter()
    for (kind, key, *arguments), (error, now_key, _seen) in zip(requests, answers, strict=True):
        if kind == "sign_in" and not error:
            signed_in[arguments[0]] += "_auth_user_id" in held(now_key)
        elif key in before:
            wrong += any("_auth_user_id" in held(each) for each in {key, now_key} if each)
    done = [kind for (kind, *_), (error, *_) in zip(requests, answers, strict=True) if not error]
    for owner in owners:  # a sign-in meanwhile has ended, or is listed
        wrong += len(sessions_of(User(pk=int(owner)))) != signed_in[owner]
    return counted(answers, wrong=wrong, ended=done.count("everywhere"))


# -- what they prove -------------------------------------------------------------------------------


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture(params=STORES)
def store(request):
    return request.param


@pytest.fixture(scope="module")
def processes(django_db_setup):
    processes = Processes()
    yield processes
    processes.stop()


@pytest.fixture
def racers(request, settings, way, store):
    """A strategy, by default the store's own, as the project's; and the way to reach it."""

    def racers(backend=STORES[store]["BACKEND"]):
        strategy = {**STORES[store], "BACKEND": backend}
        settings.SESSION_STRATEGY = strategy
        if way.startswith("processes"):
            return closing(request.getfixturevalue("processes").begin(way, strategy))
        return closing(WAYS[way]())

    return racers


@pytest.fixture
def race(request, racers, way, store):
    """Run a race, in which no promise may be broken."""
    if store == "cached" and way not in USUAL_WAYS and os.environ.get("TEST_RACES") != "full":
        pytest.skip("TEST_RACES=full runs it.")

    def race(once):
        begun, count = time.monotonic(), Counter()
        with racers() as made:
            for _ in range(ROUNDS):
                count += once(made.make)
        seconds = time.monotonic() - begun
        figures = dict.fromkeys(("acknowledged", "wrong", *REFUSALS), 0) | count
        log.info("%s: %s, %.0f seconds", request.node.name, figures, seconds)
        assert count["wrong"] == 0
        assert count["acknowledged"] > count["StrategyUnavailable"]
        return count

    return race


def test_requests_that_write_different_names_all_keep_their_writes(race):
    assert "UpdateError" not in race(different_names)


def test_requests_that_write_one_name_leave_what_one_of_them_wrote_and_no_mixture(race):
    assert "UpdateError" not in race(one_name)


def test_no_increment_is_lost(race):
    assert "UpdateError" not in race(computed)


def test_a_save_that_races_a_logout_never_revives_the_session(race):
    assert race(logouts)["UpdateError"]


def test_a_save_that_races_a_rotation_is_kept_and_the_old_key_is_dead(race):
    assert "UpdateError" not in race(rotations)


def test_no_session_escapes_a_sign_out_everywhere(race):
    assert race(sign_outs)["ended"]


RACES = [different_names, computed, logouts, rotations, sign_outs, one_name]


@pytest.mark.parametrize("once", RACES)
@pytest.mark.parametrize("way", ["threads", "processes of tasks"], indirect=True)
@pytest.mark.parametrize("store", ["postgres", "redis"], indirect=True)
def test_each_race_catches_a_strategy_that_loses_it(racers, store, once):
    naive = "Piecemeal" if once is one_name else "Overwriting"
    with racers(f"tests.racers.{naive}{store.title()}") as made:
        assert any(once(made.make)["wrong"] for _ in range(50))
