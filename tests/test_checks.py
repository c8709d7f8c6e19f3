"""``manage.py check``: each wrong configuration has an id, a sentence, and a hint to paste."""

from __future__ import annotations

import ast
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from unittest import mock

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.strategies.base import SessionStrategy

from .conftest import DATABASE, DJANGOS, MEMORY, OURS, POSTGRES, REDIS
from .servers import redis_url


class NotAtomic(SessionStrategy):
    pass


class KeepsNoCreated(SessionStrategy):
    atomic = True


class Refuses(SessionStrategy):
    def __init__(self):
        raise ValueError("no")


class MadeSlowly(SessionStrategy):
    """Until a second thread makes one too, or for a moment."""

    makers = threading.Barrier(2)

    def __init__(self):
        with suppress(threading.BrokenBarrierError):
            self.makers.wait(0.2)


HERE = __name__
REDIS_CACHE = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_url()}
SHARED = {"default": REDIS_CACHE, "sessions": {**REDIS_CACHE, "KEY_PREFIX": "other"}}
SENTINELS = {
    "CLIENT_CLASS": "django_redis.client.SentinelClient",
    "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
}


def over_redis(**options):
    return {
        "SESSION_STRATEGY": REDIS,
        "CACHES": {
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "sessions": {**REDIS_CACHE, "OPTIONS": options},
        },
    }


WRONG = {
    "string": ("E001", {"SESSION_COOKIE_SECRETS": "a string of more than thirty-two characters"}),
    "empty": ("E001", {"SESSION_COOKIE_SECRETS": []}),
    "unset": ("E001", {"SESSION_COOKIE_SECRETS": [""]}),
    "short": ("E001", {"SESSION_COOKIE_SECRETS": ["hunter2"]}),
    "none": ("E001", {"SESSION_COOKIE_SECRETS": [None]}),
    "age": ("E002", {"SESSION_ABSOLUTE_AGE": "3600"}),
    "zero": ("E002", {"SESSION_ABSOLUTE_AGE": 0}),
    "size": ("E003", {"SESSION_MAX_SIZE": "1 MiB"}),
    "import": ("E004", {"SESSION_STRATEGY": "no.such.Strategy"}),
    "no strategy": ("E004", {"SESSION_STRATEGY": "collections.OrderedDict"}),
    "no class": ("E004", {"SESSION_STRATEGY": "os.path.join"}),
    "no path": ("E004", {"SESSION_STRATEGY": 5}),
    "no backend": ("E004", {"SESSION_STRATEGY": {"OPTIONS": {}}}),
    "keys": ("E004", {"SESSION_STRATEGY": {"BACKEND": MEMORY, "OPTION": {}}}),
    "options": ("E004", {"SESSION_STRATEGY": {"BACKEND": MEMORY, "OPTIONS": {"colour": "red"}}}),
    "no dict": ("E004", {"SESSION_STRATEGY": {"BACKEND": MEMORY, "OPTIONS": ["red"]}}),
    "alias": ("E004", {"SESSION_STRATEGY": {"BACKEND": DATABASE, "OPTIONS": {"using": "no"}}}),
    "refuses": ("E004", {"SESSION_STRATEGY": f"{HERE}.Refuses"}),
    "created": (
        "E004",
        {"SESSION_STRATEGY": f"{HERE}.KeepsNoCreated", "SESSION_ABSOLUTE_AGE": 3600},
    ),
    "secure": ("E005", {"SESSION_COOKIE_NAME": "__Secure-id"}),
    "host": (
        "E006",
        {
            "SESSION_COOKIE_NAME": "__Host-id",
            "SESSION_COOKIE_SECURE": True,
            "SESSION_COOKIE_DOMAIN": "example.com",
        },
    ),
    "samesite": ("E007", {"SESSION_COOKIE_SAMESITE": "None"}),
    "atomic": ("W001", {"SESSION_STRATEGY": f"{HERE}.NotAtomic"}),
    "shared database": ("W004", {"SESSION_STRATEGY": REDIS, "CACHES": SHARED}),
    "shards": ("E009", over_redis(CLIENT_CLASS="django_redis.client.ShardClient")),
    "client-side caching": ("E010", over_redis(CONNECTION_POOL_KWARGS={"cache_config": True})),
    "no Sentinels": ("E011", over_redis(**SENTINELS)),
    "failovers": ("W005", over_redis(**SENTINELS, SENTINELS=[("127.0.0.1", 26379)])),
    "old names": ("E012", {"SESSION_COOKIE_NAME_FALLBACKS": "sessionid"}),
    "no names": ("E012", {"SESSION_COOKIE_NAME_FALLBACKS": ["old", None]}),
    "empty name": ("E012", {"SESSION_COOKIE_NAME_FALLBACKS": [""]}),
    "present name": ("E012", {"SESSION_COOKIE_NAME_FALLBACKS": ["old", "sessionid"]}),
    "partitioned": ("E013", {"SESSION_COOKIE_PARTITIONED": "yes"}),
    "insecurely partitioned": ("E008", {"SESSION_COOKIE_PARTITIONED": True}),
    "limit": ("E014", {"SESSION_LIMIT_PER_USER": 0}),
    "limit of text": ("E014", {"SESSION_LIMIT_PER_USER": "5"}),
    "sign-ins": ("E015", {"SESSION_SIGN_INS": "yes"}),
    "address": ("E016", {"SESSION_SIGN_IN_ADDRESS": "no.such.function"}),
    "address of text": ("E016", {"SESSION_SIGN_IN_ADDRESS": "django.__name__"}),
    "short key": ("W007", {"SECRET_KEY": "hunter2"}),
    "short old key": ("W007", {"SECRET_KEY_FALLBACKS": ["hunter2"]}),
    "engine": ("W002", {"SESSION_ENGINE": "django.contrib.sessions.backends.db"}),
    "middleware": ("W003", {"MIDDLEWARE": ["django.middleware.common.CommonMiddleware"]}),
}


def ours():
    return [m for m in run_checks() if (m.id or "").startswith("strategy_sessions.")]


def test_nothing_is_wrong_with_the_suites_own_settings():
    assert ours() == []


@pytest.mark.parametrize(("expected", "wrong"), WRONG.values(), ids=WRONG)
def test_check_reports_each_mistake_with_a_hint_to_paste(settings, expected, wrong):
    for name, value in wrong.items():
        setattr(settings, name, value)
    (message,) = ours()
    assert message.id == f"strategy_sessions.{expected}"
    assert message.msg[0].isupper()
    assert message.msg.endswith((".", ")"))
    assert "hunter2" not in str(message)
    if expected != "W001":
        ast.parse(message.hint)  # Python, as it stands


def test_check_warns_of_sessions_in_the_default_cache(settings):
    """Its eviction would end sessions."""
    settings.CACHES = {"default": REDIS_CACHE}
    settings.SESSION_STRATEGY = REDIS["BACKEND"]
    assert [message.id for message in ours()] == ["strategy_sessions.W004"]
    exec(ours()[0].hint, names := {"CACHES": settings.CACHES})
    settings.CACHES, settings.SESSION_STRATEGY = names["CACHES"], names["SESSION_STRATEGY"]
    assert ours() == []


def test_importing_the_engine_reports_that_the_app_is_not_installed():
    code = (
        "import django; from django.conf import settings; settings.configure();"
        "django.setup(); import django_strategy_sessions.engine"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ImproperlyConfigured" in run.stderr
    assert "INSTALLED_APPS = [" in run.stderr


def test_check_reports_that_the_app_is_not_installed_if_our_middleware_is():
    """Its own checks are not there; those of the admin import every middleware."""
    code = """
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    SECRET_KEY="x" * 50,
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
    ],
    MIDDLEWARE=["django_strategy_sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django_strategy_sessions.engine",
)
django.setup()
call_command("check")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert '"django_strategy_sessions",' in run.stderr


@pytest.mark.parametrize(
    ("path", "driver", "hint"),
    [
        (POSTGRES["BACKEND"], "psycopg", '"django-strategy-sessions[postgres]" "psycopg[binary]"'),
        (REDIS["BACKEND"], "django_redis", '"django-strategy-sessions[redis]"'),
        (REDIS["BACKEND"], "redis", '"django-strategy-sessions[redis]"'),
    ],
)
def test_check_names_the_command_that_installs_a_missing_driver(
    settings, monkeypatch, path, driver, hint
):
    strategies = "django_strategy_sessions.strategies."
    for name in list(sys.modules):
        if name.startswith((strategies + "redis", strategies + "postgres", driver + ".")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)  # as Python marks what it cannot find
    settings.SESSION_STRATEGY = path
    (message,) = ours()
    assert message.id == "strategy_sessions.E004"
    assert message.hint == f"pip install {hint}"


@pytest.mark.parametrize("what", ["options", "refuses", "import"])
def test_check_reports_a_cause_once(settings, what):
    for name, value in WRONG[what][1].items():
        setattr(settings, name, value)
    (message,) = ours()
    with pytest.raises(ImproperlyConfigured) as error:
        get_strategy()
    assert message.msg.count(str(error.value.__cause__)) == 1


def test_check_ignores_a_short_secret_key_that_does_not_sign(settings):
    settings.SECRET_KEY = "hunter2"
    settings.SESSION_COOKIE_SECRETS = ["a secret of more than thirty-two characters"]
    assert ours() == []


def ours_in_production():
    found = run_checks(include_deployment_checks=True)
    return {m.id: m for m in found if (m.id or "").startswith("strategy_sessions.")}


def test_check_warns_of_the_memory_strategy_in_production(settings):
    assert "strategy_sessions.W008" not in ours_in_production()
    settings.SESSION_STRATEGY = MEMORY
    assert ours() == []
    message = ours_in_production()["strategy_sessions.W008"]
    exec(message.hint, names := {})
    settings.SESSION_STRATEGY = names["SESSION_STRATEGY"]
    assert "strategy_sessions.W008" not in ours_in_production()


def test_check_deploy_warns_of_djangos_app_beside_our_engine(settings):
    """A logout over a back channel that deletes rows of its model would end nothing."""
    message = ours_in_production()["strategy_sessions.W009"]
    exec(message.hint.partition("#")[0], {"INSTALLED_APPS": (names := [*settings.INSTALLED_APPS])})
    settings.INSTALLED_APPS = [name for name in names if name != "sessions_tests"]
    assert "strategy_sessions.W009" not in ours_in_production()


def test_check_allows_djangos_app_with_another_engine(settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    assert "strategy_sessions.W009" not in ours_in_production()


COOKIE = {
    "SESSION_COOKIE_SECURE": ("W010", {f"security.W01{digit}" for digit in "012"}),
    "SESSION_COOKIE_HTTPONLY": ("W011", {f"security.W01{digit}" for digit in "345"}),
}


@pytest.mark.parametrize("setting", COOKIE)
@pytest.mark.parametrize("middleware", [DJANGOS, OURS])
@pytest.mark.parametrize("app", [True, False], ids=["with the app", "without the app"])
def test_check_deploy_warns_of_an_unprotected_cookie_where_djangos_are_silent(
    settings, setting, middleware, app
):
    """Those only look for Django's app and for Django's middleware."""
    if not app:
        gone = ("django.contrib.sessions", "sessions_tests")
        settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name not in gone]
    settings.MIDDLEWARE = [middleware, *settings.MIDDLEWARE[1:]]
    number, djangos = COOKIE[setting]
    ours = f"strategy_sessions.{number}"

    def found():
        messages = run_checks(include_deployment_checks=True)
        return {m.id: m for m in messages if m.id in {ours, *djangos}}

    setattr(settings, setting, False)
    (warned,) = found().values()
    assert (warned.id == ours) == (middleware == OURS and not app)
    exec(warned.hint or f"{setting} = True", names := {})
    setattr(settings, setting, names[setting])
    assert not found()


def test_check_deploy_warns_of_ages_that_disagree(settings):
    settings.SESSION_COOKIE_AGE = 3600
    settings.SESSION_ABSOLUTE_AGE = 3600
    assert "strategy_sessions.W012" not in ours_in_production()
    settings.SESSION_ABSOLUTE_AGE = 1800
    exec(ours_in_production()["strategy_sessions.W012"].hint, names := {})
    settings.SESSION_COOKIE_AGE = names["SESSION_COOKIE_AGE"]
    assert "strategy_sessions.W012" not in ours_in_production()
    settings.SESSION_ABSOLUTE_AGE = "1800"  # another check says so
    assert "strategy_sessions.W012" not in ours_in_production()


@pytest.mark.parametrize("mode", [None, "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_check_wants_immediate_transactions_on_sqlite_under_atomic_requests(settings, mode):
    given = connections["down"].settings_dict
    settings.SESSION_STRATEGY = {"BACKEND": DATABASE, "OPTIONS": {"using": "down"}}
    with mock.patch.dict(given, ATOMIC_REQUESTS=True, OPTIONS={"transaction_mode": mode}):
        found = ours()
        assert [message.id for message in found] == (
            ["strategy_sessions.W006"] if mode in {None, "DEFERRED"} else []
        )
        for message in found:
            exec(message.hint, {"DATABASES": {"down": given}})
        assert ours() == []


def test_check_ignores_sqlite_without_atomic_requests(settings):
    settings.SESSION_STRATEGY = {"BACKEND": DATABASE, "OPTIONS": {"using": "down"}}
    assert ours() == []


@pytest.mark.parametrize(("mode", "outcome"), [("DEFERRED", "locked"), ("IMMEDIATE", "written")])
def test_what_the_check_of_sqlite_says_is_true(tmp_path, mode, outcome):
    """In WAL mode a transaction that has read cannot write what another has changed meanwhile."""
    path = tmp_path / "db.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as first:
        first.executescript(
            "PRAGMA journal_mode = WAL; CREATE TABLE row (n); INSERT INTO row VALUES (0)"
        )
        first.execute(f"BEGIN {mode}")
        first.execute("SELECT n FROM row").fetchall()
        begun = threading.Event()

        def write():
            with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as second:
                begun.set()
                second.execute("UPDATE row SET n = n + 1")

        other = threading.Thread(target=write)
        other.start()
        begun.wait()
        if mode == "DEFERRED":
            other.join()
        try:
            first.execute("UPDATE row SET n = n + 1")
            first.execute("COMMIT")
            found = "written"
        except sqlite3.OperationalError as error:
            found = str(error).rpartition(" ")[2]
        other.join()
    assert found == outcome


def test_an_error_is_chained_to_its_cause(settings):
    settings.SESSION_STRATEGY = "no.such.Strategy"
    with pytest.raises(ImproperlyConfigured) as error:
        get_strategy()
    assert isinstance(error.value.__cause__, ImportError)


def test_a_strategy_with_options(settings):
    settings.SESSION_STRATEGY = {"BACKEND": DATABASE, "OPTIONS": {"using": "down"}}
    assert get_strategy().alias == "down"
    assert get_strategy() is get_strategy()


def test_threads_whose_first_calls_come_at_once_share_one_strategy(settings):
    settings.SESSION_STRATEGY = f"{HERE}.MadeSlowly"
    start = threading.Barrier(2)

    def ask():
        start.wait(30)
        return get_strategy()

    with ThreadPoolExecutor(2) as threads:
        one, other = [asked.result() for asked in [threads.submit(ask), threads.submit(ask)]]
    assert one is other
