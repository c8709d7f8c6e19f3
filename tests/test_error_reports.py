"""Error reports show no session id, no record and no session data (ASVS 16.2.5).

Django mails a report of each error to the admins, and Sentry keeps one: both print the local
variables of every frame. Whatever fails, in whichever store, neither may show what is private.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from contextlib import closing, contextmanager

import pytest
import sentry_sdk
from django.contrib.auth import get_user_model, login, logout
from django.db import connections
from django.test import RequestFactory
from django.views.debug import ExceptionReporter
from sentry_sdk.transport import Transport
from sentry_sdk.utils import event_from_exception

from django_strategy_sessions import create_session_storage, records
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.strategies.base import SessionStrategy, StrategyUnavailable

from .conftest import DATABASE, POSTGRES, REDIS, in_postgres, run_in_loop
from .servers import Valkey, free_port

CANARY = secrets.token_hex(12)


def canary():
    """Something private: no variable of a test's own holds it."""
    return {"deep": [CANARY], CANARY: 1}


def kept_session():
    session = SessionStore()
    session["private"] = canary()
    session["_auth_user_id"] = "1"
    session.save()
    return session


# -- what is private, and who reports ------------------------------------------------------------


class Kept(Transport):
    def __init__(self):
        super().__init__()
        self.events = []

    def capture_envelope(self, envelope):
        self.events.append(envelope.get_event())


def reported_to_sentry(error):
    transport = Kept()
    client = sentry_sdk.Client(
        dsn="https://key@sentry.invalid/1",
        transport=transport,
        default_integrations=False,
        auto_enabling_integrations=False,
        include_local_variables=True,
        max_value_length=100_000,
    )
    event, hint = event_from_exception(error, client_options=client.options)
    client.capture_event(event, hint)
    (event,) = transport.events
    frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
    assert any(frame.get("vars") for frame in frames)
    return json.dumps(event)


def reports(error, settings):
    given = type(error), error, error.__traceback__
    for debug in (True, False):
        settings.DEBUG = debug
        reporter = ExceptionReporter(RequestFactory().get("/"), *given)
        yield "html", reporter.get_traceback_html()
        yield "text", reporter.get_traceback_text()
    yield "sentry", reported_to_sentry(error)


def nothing_private_in(error, settings, *session_ids):
    private = {"canary": CANARY}
    for number, session_id in enumerate(session_ids):
        private[f"id {number}"] = session_id
    shown = {
        (reporter, what): text[max(0, text.index(thing) - 300) : text.index(thing) + 50]
        for reporter, text in reports(error, settings)
        for what, thing in private.items()
        if thing in text
    }
    assert not shown


def failure_of(work, *arguments):
    try:
        work(*arguments)
    except Exception as error:
        return error
    raise AssertionError("It did not fail.")


# -- stores, and how they fail ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def valkey():
    with Valkey() as server:
        yield server


@contextmanager
def locked():
    """SQLite: another process writes for longer than anybody waits."""
    django = connections["default"]
    options = django.settings_dict["OPTIONS"]
    django.close()
    kept, options["timeout"] = options["timeout"], 0
    with closing(sqlite3.connect(django.settings_dict["NAME"])) as other:
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.rollback()
            django.close()
            options["timeout"] = kept


@contextmanager
def unreachable():
    """PostgreSQL: nothing listens on the port."""
    django = connections["postgres"]
    django.close()
    kept = django.settings_dict["HOST"], django.settings_dict["PORT"]
    django.settings_dict.update(HOST="127.0.0.1", PORT=free_port())
    try:
        yield
    finally:
        django.close()
        django.settings_dict.update(HOST=kept[0], PORT=kept[1])


@pytest.fixture(
    params=[
        pytest.param("database"),
        pytest.param("postgres", marks=in_postgres),
        pytest.param("redis"),
    ]
)
def down(request, settings, transactional_db):
    """Over a store that works; ``with down():`` it does not."""
    if request.param == "database":
        settings.SESSION_STRATEGY = DATABASE
        return locked
    if request.param == "postgres":
        settings.SESSION_STRATEGY = POSTGRES
        return unreachable
    valkey = request.getfixturevalue("valkey")
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": valkey.url}
    settings.CACHES = {"default": settings.CACHES["default"], "sessions": cache}
    settings.SESSION_STRATEGY = REDIS

    @contextmanager
    def killed():
        valkey.kill()
        try:
            yield
        finally:
            valkey.start()

    return killed


# -- an outage, whatever the session was about to do -----------------------------------------------


def request_with(session):
    request = RequestFactory().get("/")
    request.session = session
    return request


def sign_in(session):
    login(request_with(session), get_user_model()(pk=2, password="x"), "a.backend")


# By what the request had done before the store went down.
UNLOADED = {
    "get": lambda session: session["private"],
    "set": lambda session: session.__setitem__("more", canary()),
    "update": lambda session: session.update({"more": canary()}),
    "setdefault": lambda session: session.setdefault("more", canary()),
    "flash": lambda session: session.flash("more", canary()),
    "pop": lambda session: session.pop("more", None),
    "apply": lambda session: session.apply("more", lambda value: value, canary()),
    "cycle_key": lambda session: session.cycle_key(),
    "flush": lambda session: session.flush(),
    "delete": lambda session: session.delete(session.session_key),
    "exists": lambda session: session.exists(session.session_key),
    "login": sign_in,
    "logout": lambda session: logout(request_with(session)),
}
LOADED = {
    "save": lambda session: session.save(),
    "create": lambda session: session.create(),
    "apply": lambda session: session.apply("private", lambda value: [value], canary()),
    "cycle_key": lambda session: session.cycle_key(),
    "flush": lambda session: session.flush(),
    "login": sign_in,
    "logout": lambda session: logout(request_with(session)),
}
ASYNC = {
    "get": lambda session: session.aget("private"),
    "set": lambda session: session.aset("more", canary()),
    "update": lambda session: session.aupdate({"more": canary()}),
    "setdefault": lambda session: session.asetdefault("more", canary()),
    "flash": lambda session: session.aflash("more", canary()),
    "pop": lambda session: session.apop("more", None),
    "apply": lambda session: session.aapply("more", lambda value: value, canary()),
    "cycle_key": lambda session: session.acycle_key(),
    "flush": lambda session: session.aflush(),
    "exists": lambda session: session.aexists(session.session_key),
    "save": lambda session: session.asave(),
    "create": lambda session: session.acreate(),
}


@pytest.mark.parametrize("what", UNLOADED)
def test_of_an_outage_before_anything_was_loaded(down, settings, what):
    session = SessionStore(kept_session().session_key)
    with down():
        error = failure_of(UNLOADED[what], session)
    assert isinstance(error, StrategyUnavailable)
    nothing_private_in(error, settings, session._state.session_id)


@pytest.mark.parametrize("what", LOADED)
def test_of_an_outage_after_the_session_was_loaded(down, settings, what):
    session = SessionStore(kept_session().session_key)
    session["private"]["more"] = canary()
    with down():
        error = failure_of(LOADED[what], session)
    assert isinstance(error, StrategyUnavailable)
    nothing_private_in(error, settings, session._state.session_id)


@pytest.mark.parametrize("loaded", [False, True], ids=["unloaded", "loaded"])
@pytest.mark.parametrize("what", ASYNC)
def test_of_an_outage_in_async_code(down, settings, what, loaded):
    session = SessionStore(kept_session().session_key)
    if loaded:
        session["private"]["more"] = canary()
    if loaded and what in {"get", "set", "update", "setdefault", "flash", "pop"}:
        pytest.skip("asks no store")
    with down():
        error = failure_of(lambda: run_in_loop(ASYNC[what](session)))
    assert isinstance(error, StrategyUnavailable)
    nothing_private_in(error, settings, session._state.session_id)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_of_an_outage_while_the_projects_metrics_listen(down, settings, heard, colour):
    session = SessionStore(kept_session().session_key)
    session["private"]["more"] = canary()
    heard.clear()
    with down():
        if colour == "sync":
            error = failure_of(session.save)
        else:
            error = failure_of(lambda: run_in_loop(session.asave()))
    assert isinstance(error, StrategyUnavailable)
    assert heard == ["unavailable"]
    nothing_private_in(error, settings, session._state.session_id)


def cookie_of(storage):
    """The text of a ``Cookie`` header."""
    session = storage.get_session()
    session.set("private", canary())
    return storage.commit_session(session).partition(";")[0]


STORAGES = {
    "get": lambda storage, session, cookie: storage.get_session(cookie()),
    "commit": lambda storage, session, cookie: storage.commit_session(session),
    "rotate": lambda storage, session, cookie: storage.commit_session(session, rotate=True),
    "destroy": lambda storage, session, cookie: storage.destroy_session(session),
}


@pytest.mark.parametrize("what", STORAGES)
def test_of_an_outage_under_an_explicit_storage(down, settings, what):
    storage = create_session_storage(settings.SESSION_STRATEGY)
    cookies = [cookie_of(storage)]
    session = storage.get_session(cookies[0])
    session.get("private")["more"] = canary()
    session_id = session.id
    with down():
        error = failure_of(STORAGES[what], storage, session, cookies.pop)
    assert isinstance(error, StrategyUnavailable)
    nothing_private_in(error, settings, session_id)


# -- what is wrong with the data -------------------------------------------------------------------


class Odd:
    def __repr__(self):
        return CANARY


UNFIT = {
    "value": lambda session: session.__setitem__("more", {"deep": [CANARY, Odd()]}),
    "changed value": lambda session: session["private"].update(more=Odd()),
    "name": lambda session: session.update({(1, 2): canary()}),
    "name set": lambda session: session.__setitem__((1, 2), canary()),
    "default": lambda session: session.apply("more", lambda value: value, Odd()),
    "applied": lambda session: session.apply("more", lambda value: Odd()),
    "size": lambda session: session.__setitem__("more", CANARY * 100_000),
    "flash": lambda session: session.flash("more", Odd()),
}


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("what", UNFIT)
def test_of_what_cannot_be_stored(strategy, settings, what, colour):
    session = SessionStore(kept_session().session_key)

    def work():
        UNFIT[what](session)
        if colour == "sync":
            session.save()
        else:
            run_in_loop(session.asave())

    error = failure_of(work)
    assert isinstance(error, (TypeError, records.SessionTooLarge))
    nothing_private_in(error, settings, session._state.session_id)


CONSTRAINTS = {
    "default": (
        "CREATE TRIGGER refuses BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END",
        "DROP TRIGGER refuses",
    ),
    "postgres": (
        "ALTER TABLE {table} ADD CONSTRAINT refuses CHECK (owner = 'nobody') NOT VALID",
        "ALTER TABLE {table} DROP CONSTRAINT refuses",
    ),
}


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("verb", ["INSERT", "UPDATE"])
@pytest.mark.parametrize(
    ("store", "alias"),
    [
        (DATABASE, "default"),
        pytest.param({"BACKEND": DATABASE, "OPTIONS": {"using": "postgres"}}, "postgres"),
        (POSTGRES, "postgres"),
    ],
)
@in_postgres
def test_of_a_constraint(settings, store, alias, verb, colour):
    settings.SESSION_STRATEGY = store
    session = kept_session()
    session["private"]["more"] = canary()
    if verb == "INSERT":
        work = (session.cycle_key, session.acycle_key)[colour == "async"]
    else:
        work = (session.save, session.asave)[colour == "async"]
    made, undone = CONSTRAINTS[alias]
    table = StoredSession._meta.db_table
    with connections[alias].cursor() as cursor:
        cursor.execute(made.format(verb=verb, table=table))
    try:
        error = failure_of(work if colour == "sync" else lambda: run_in_loop(work()))
    finally:
        with connections[alias].cursor() as cursor:
            cursor.execute(undone.format(table=table))
    assert "IntegrityError" in type(error).__name__
    nothing_private_in(error, settings, session._state.session_id)
    told = "".join(text for _, text in reports(error, settings))
    assert "Failing row contains" not in told  # with the beginning of each of its columns
    record = StoredSession.objects.using(alias).get().data
    assert record[: records.MAC_LENGTH] not in told


def test_a_record_that_cannot_be_read_is_logged_without_it(strategy, settings, caplog):
    session = kept_session()
    settings.SECRET_KEY = "another secret, of no use anywhere else: 0123456789abcdef"
    late = SessionStore()
    late._state.session_id = session._state.session_id
    assert late.get("private") is None
    assert "does not unseal" in caplog.text
    assert CANARY not in caplog.text
    assert session._state.session_id not in caplog.text


# -- a strategy of four verbs, which has frames of its own -----------------------------------------


class Failing(SessionStrategy):
    """By default fine; one of its verbs raises."""

    fails = ""

    def __init__(self):
        self.rows = {}

    def _may_fail(self, verb):
        if self.fails == verb:
            raise OSError("The disk is full.")

    def create_data(self, data, expires):
        self._may_fail("create_data")
        session_id = secrets.token_urlsafe(16)
        self.rows[session_id] = json.dumps(data)
        return str(session_id)

    def read_data(self, session_id):
        self._may_fail("read_data")
        text = self.rows.get(session_id)
        return None if text is None else json.loads(text)

    def update_data(self, session_id, data, expires):
        self._may_fail("update_data")
        self.rows[session_id] = json.dumps(data)
        return True

    def delete_data(self, session_id):
        self._may_fail("delete_data")
        self.rows.pop(session_id, None)


class Unfit(Failing):
    """What it reads is not JSON."""

    def read_data(self, session_id):
        data = super().read_data(session_id)
        try:
            return data and {**data, "odd": Odd()}
        finally:
            del data


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("verb", ["create_data", "read_data", "update_data", "delete_data"])
@pytest.mark.parametrize("rotating", [False, True], ids=["saves", "rotates"])
def test_of_a_strategy_of_four_verbs_that_raises(settings, colour, verb, rotating):
    settings.SESSION_STRATEGY = f"{__name__}.Failing"
    kept = kept_session()
    session = SessionStore(kept.session_key)
    session["private"]["more"] = canary()
    works = [
        (session.save, session.asave),
        (session.cycle_key, session.acycle_key),
        (session.flush, session.aflush),
        (session.create, session.acreate),
    ]
    touched = {"create_data": 1 if rotating else 3, "delete_data": 1 if rotating else 2}
    sync, native = works[touched.get(verb, int(rotating))]
    if verb == "update_data" and rotating:
        pytest.skip("a rotation updates nothing")
    get_strategy().fails = verb
    error = failure_of(sync if colour == "sync" else lambda: run_in_loop(native()))
    assert isinstance(error, OSError)
    nothing_private_in(error, settings, kept._state.session_id)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_of_a_strategy_of_four_verbs_whose_data_is_no_json(settings, colour):
    settings.SESSION_STRATEGY = f"{__name__}.Unfit"
    session = SessionStore(kept_session().session_key)
    work = session.load if colour == "sync" else lambda: run_in_loop(session.aload())
    error = failure_of(work)
    assert isinstance(error, TypeError)
    nothing_private_in(error, settings, session._state.session_id)
