"""``manage.py movesessions``: run as operators run it, killed, and started again."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from io import StringIO

import pytest
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from django_strategy_sessions import records
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import get_strategy

from ..conftest import DATABASE, POSTGRES, REDIS
from .conftest import BACKENDS, MOVING, OTHERS, Site, Visitor
from .test_moving import CART, SET

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
MANY = int(os.environ.get("TEST_MOVED_ROWS", "600"))


def old_keys(count, name="db"):
    store = import_module(f"{BACKENDS}.{name}").SessionStore
    keys = []
    with transaction.atomic():
        for number in range(count):
            session = store()
            session["number"] = number
            session.create()
            keys.append(session.session_key)
    return keys


def spoil(keys):
    """One has expired, one cannot be read."""
    Session.objects.filter(pk=keys[0]).update(expire_date=timezone.now() - timedelta(days=1))
    Session.objects.filter(pk=keys[1]).update(session_data="what is this")


def moving(target=DATABASE, step="move", name="db"):
    options = {"source": f"{BACKENDS}.{name}", "target": target, "step": step}
    return {"BACKEND": MOVING, "OPTIONS": options}


def move(*options, **named):
    out = StringIO()
    call_command("movesessions", *options, stdout=out, **named)
    return out.getvalue()


@pytest.fixture
def process():
    """The command in a process of its own, on this test's database."""
    started = []

    def start(*options):
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.moving.settings",
            "PYTHONUNBUFFERED": "1",
            "TEST_DATABASE": str(connection.settings_dict["NAME"]),
        }
        program = [sys.executable, "-m", "django", "movesessions", *options]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(program, env=environment, **streams))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


@pytest.mark.parametrize("target", [DATABASE, REDIS], ids=["database", "redis"])
@pytest.mark.parametrize("name", ["db", "cached_db"])
def test_the_rest_moves_and_the_summary_counts(settings, target, name, stores):
    settings.SESSION_STRATEGY = moving(target, name=name)
    keys = old_keys(25, name)
    spoil(keys)
    said = "sessions; 1 have expired, 1 are unreadable.\n"
    assert move("--dry-run") == f"Would move 23 {said}"
    assert Session.objects.count() == 25
    assert move("--batch-size=10") == f"Moved 23 {said}"
    assert {*Session.objects.values_list("pk", flat=True)} == {*keys[:2]}
    assert move() == f"Moved 0 {said}"
    settings.SESSION_STRATEGY = moving(target, step="accept", name=name)
    for number, key in enumerate(keys):
        expected = None if number < 2 else number
        assert SessionStore(key).get("number") == expected


def test_the_rest_moves_from_an_engine_of_somebody_elses(settings):
    site = Site(OTHERS, DATABASE)
    settings.SESSION_STRATEGY = site.move.settings["SESSION_STRATEGY"]
    first, second = Visitor(), Visitor()
    for each in (first, second):
        site.old.ask(each, SET)
        assert site.accept.ask(each, CART, ("update", {"more": 1})).seen[0] == ["tea"]
        assert site.old.ask(each, ("get", "more")).seen == [1]
    ends = {row.expire_date for row in Session.objects.all()}
    site.move.ask(first, CART)
    assert move() == "Moved 1 sessions; 0 have expired, 0 are unreadable.\n"
    assert {row.expires for row in StoredSession.objects.all()} == ends
    for each in (first, second):
        assert site.move.ask(each, ("get", "more"), CART).seen == [1, ["tea"]]


def test_data_that_was_moved_keeps_its_age(settings):
    settings.SESSION_STRATEGY = moving()
    old_keys(1)
    ends = Session.objects.get().expire_date
    move()
    assert StoredSession.objects.get().expires == ends


def test_it_stops_when_its_time_is_over_and_goes_on_later(settings):
    settings.SESSION_STRATEGY = moving()
    old_keys(5)
    out = move("--batch-size=2", "--max-seconds=0")
    assert out == ("Moved 2 sessions; 0 have expired, 0 are unreadable. Stopped after 0 seconds.\n")
    assert move(verbosity=0) == ""
    assert not Session.objects.exists()


def test_a_session_that_ends_meanwhile_is_not_moved(settings, monkeypatch):
    settings.SESSION_STRATEGY = moving()
    keys = old_keys(3)
    strategy = get_strategy()
    load_all = strategy.engine.load_all

    def log_out_first(claimed):
        Session.objects.filter(pk=keys[0]).delete()  # by a process of the release before
        SessionStore(keys[1]).flush()
        return load_all(claimed)

    monkeypatch.setattr(strategy.engine, "load_all", log_out_first)
    assert move() == "Moved 1 sessions; 2 have expired, 0 are unreadable.\n"
    assert [SessionStore(key).get("number") for key in keys] == [None, None, 2]


# -- between our own strategies --------------------------------------------------------------------

PAIRS = {
    "database to postgres": (DATABASE, POSTGRES),
    "postgres to redis": (POSTGRES, REDIS),
    "database to redis": (DATABASE, REDIS),
}


def between(source, target, step="move"):
    return {"BACKEND": MOVING, "OPTIONS": {"source": source, "target": target, "step": step}}


@pytest.mark.parametrize(("source", "target"), PAIRS.values(), ids=PAIRS)
def test_the_rest_of_our_own_sessions_moves_under_the_same_keys(settings, source, target):
    settings.SESSION_STRATEGY = source
    sessions = []
    for number in range(9):
        session = SessionStore()
        session["number"] = number
        session.create()
        sessions.append(session)
    keys = [session.session_key for session in sessions]
    stored = {key: load(key) for key in keys}
    using = "postgres" if source == POSTGRES else "default"
    rows = StoredSession.objects.using(using)
    by_age = [rows.get(pk=records.hashed(session._state.session_id)) for session in sessions]
    rows.filter(pk=by_age[0].pk).update(expires=timezone.now() - timedelta(days=1))
    rows.filter(pk=by_age[1].pk).update(data="what is this")
    sessions[2].cycle_key()  # leaves a marker, which is no session
    keys[2], stored[sessions[2].session_key] = (
        sessions[2].session_key,
        load(sessions[2].session_key),
    )
    settings.SESSION_STRATEGY = between(source, target)
    said = "7 sessions; 1 have expired, 1 are unreadable.\n"
    assert move("--dry-run") == f"Would move {said}"
    SessionStore(keys[3]).get("number")  # a visitor comes first
    said = said.replace("7", "6")
    assert move("--batch-size=4") == f"Moved {said}"
    assert move() == "Moved 0 sessions; 1 have expired, 1 are unreadable.\n"
    settings.SESSION_STRATEGY = target
    for number, key in enumerate(keys):
        now, was = load(key), stored[key]
        if number < 2:
            assert now is None
        else:
            assert (now.data, now.expires, now.created) == (was.data, was.expires, was.created)


def load(key):
    session = SessionStore(key)
    session.get("number")
    return session._state.stored


def test_of_our_own_sessions_one_that_ends_meanwhile_is_not_moved(settings, monkeypatch):
    settings.SESSION_STRATEGY = DATABASE
    keys = []
    for number in range(2):
        session = SessionStore()
        session["number"] = number
        session.create()
        keys.append(session.session_key)
    settings.SESSION_STRATEGY = between(DATABASE, REDIS)
    target = get_strategy().target
    add_all = target.add_all

    def log_out_first(rows):
        SessionStore(keys[0]).flush()
        add_all(rows)

    monkeypatch.setattr(target, "add_all", log_out_first)
    assert move() == "Moved 1 sessions; 1 have expired, 0 are unreadable.\n"
    assert [SessionStore(key).get("number") for key in keys] == [None, 1]


# -- stopped -------------------------------------------------------------------------------------


def test_sigterm_ends_it_with_what_was_moved(process):
    old_keys(MANY)
    run = process("--batch-size=1")
    while StoredSession.objects.count() < 10:
        assert run.poll() is None
    run.terminate()
    out, err = run.communicate(timeout=60)
    moved = int(re.match(r"Interrupted\. Moved ([\d,]+) sessions;", out)[1].replace(",", ""))
    assert (run.returncode, err) == (143, "")
    assert moved - 1 <= MANY - Session.objects.count() <= moved + 1


def test_killed_at_random_moments_it_moves_each_once(process, settings):
    settings.SESSION_STRATEGY = moving()
    keys = old_keys(MANY)
    spoil(keys)
    kills = 0
    for _ in range(4):
        run = process("--batch-size=50")
        wanted = StoredSession.objects.count() + random.randint(1, MANY // 8)
        while StoredSession.objects.count() < wanted and run.poll() is None:
            pass
        kills += run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert kills
    out, _ = process().communicate(timeout=120)
    assert "1 have expired, 1 are unreadable" in out
    assert Session.objects.count() == 2
    assert StoredSession.objects.count() == MANY - 2
    with_numbers = [SessionStore(key).get("number") for key in keys]
    assert with_numbers == [None, None, *range(2, MANY)]


def test_visitors_do_not_notice(process, settings):
    """Each writes all the time, in both steps, while the command runs and is killed."""
    old_keys(MANY // 2)
    site = Site(f"{BACKENDS}.db", DATABASE)
    visitors = [Visitor() for _ in range(4)]
    for visitor in visitors:
        site.old.ask(visitor, SET)
    run = process("--batch-size=100")
    written, numbers = [0] * len(visitors), 0
    while run.poll() is None or numbers < 20:
        numbers += 1
        if numbers == 10:
            run.send_signal(signal.SIGKILL)
            run.wait()
            run = process("--batch-size=100")
        for place, visitor in enumerate(visitors):
            release = random.choice([site.accept, site.move])
            answer = release.ask(visitor, CART, ("update", {f"n{numbers}": numbers}))
            assert (answer.status_code, answer.seen[0]) == (200, ["tea"])
            written[place] = numbers
    for place, visitor in enumerate(visitors):
        names = [("get", f"n{number + 1}") for number in range(written[place])]
        assert site.move.ask(visitor, *names).seen == [*range(1, written[place] + 1)]


# -- what cannot work ------------------------------------------------------------------------------


def pasted(error):
    return str(error.value).partition("\n")[2]


def test_it_needs_the_strategy(settings):
    settings.SESSION_STRATEGY = DATABASE
    with pytest.raises(CommandError, match="movesessions needs") as error:
        move()
    exec(pasted(error).replace("...", "None"), settings := {})
    assert settings["SESSION_STRATEGY"]["BACKEND"] == MOVING


def test_it_needs_the_second_step(settings):
    settings.SESSION_STRATEGY = moving(step="accept")
    old_keys(1)
    with pytest.raises(CommandError, match="in the second step") as error:
        move()
    exec(pasted(error), given := {"SESSION_STRATEGY": moving(step="accept")})
    assert given["SESSION_STRATEGY"] == moving()
    assert move("--dry-run").startswith("Would move 1 ")


@pytest.mark.parametrize("name", ["cache", "file", "signed_cookies", "ours in redis"])
def test_it_needs_a_source_that_lists(settings, stores, name):
    settings.SESSION_STRATEGY = moving(name=name)
    if name == "ours in redis":
        settings.SESSION_STRATEGY = between(REDIS, DATABASE)
    with pytest.raises(CommandError, match="cannot list its sessions") as error:
        move()
    exec(pasted(error), {"SESSION_STRATEGY": moving(step="accept")})
