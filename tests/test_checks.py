"""``manage.py check``: each wrong configuration has an id, a sentence, and a hint to paste."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.strategies.base import SessionStrategy

from .conftest import DATABASE, MEMORY, REDIS
from .servers import redis_url


class NotAtomic(SessionStrategy):
    pass


class KeepsNoCreated(SessionStrategy):
    atomic = True


class Refuses(SessionStrategy):
    def __init__(self):
        raise ValueError("no")


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
    "engine": ("W002", {"SESSION_ENGINE": "django.contrib.sessions.backends.db"}),
    "middleware": ("W003", {"MIDDLEWARE": ["django.middleware.common.CommonMiddleware"]}),
}


def ours():
    return [m for m in run_checks() if (m.id or "").startswith("strategy_sessions.")]


def test_nothing_is_wrong_with_the_suites_own_settings():
    assert ours() == []


@pytest.mark.parametrize(("expected", "wrong"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_with_a_hint_to_paste(settings, expected, wrong):
    for name, value in wrong.items():
        setattr(settings, name, value)
    (message,) = ours()
    assert message.id == f"strategy_sessions.{expected}"
    assert message.msg[0].isupper()
    assert message.msg.endswith((".", ")"))
    assert "hunter2" not in str(message)
    if expected != "W001":
        ast.parse(message.hint)  # Python, as it stands


def test_the_default_cache_is_for_caching(settings):
    """So sessions in it are told of too."""
    settings.CACHES = {"default": REDIS_CACHE}
    settings.SESSION_STRATEGY = REDIS["BACKEND"]
    assert [message.id for message in ours()] == ["strategy_sessions.W004"]
    exec(ours()[0].hint, names := {"CACHES": settings.CACHES})
    settings.CACHES, settings.SESSION_STRATEGY = names["CACHES"], names["SESSION_STRATEGY"]
    assert ours() == []


def test_the_app_that_is_not_installed_is_told_when_the_engine_is_first_imported():
    code = (
        "import django; from django.conf import settings; settings.configure();"
        "django.setup(); import django_strategy_sessions.engine"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ImproperlyConfigured" in run.stderr
    assert "INSTALLED_APPS = [" in run.stderr


def test_an_error_is_chained_to_its_cause(settings):
    settings.SESSION_STRATEGY = "no.such.Strategy"
    with pytest.raises(ImproperlyConfigured) as error:
        get_strategy()
    assert isinstance(error.value.__cause__, ImportError)


def test_a_strategy_with_options(settings):
    settings.SESSION_STRATEGY = {"BACKEND": DATABASE, "OPTIONS": {"using": "down"}}
    assert get_strategy().alias == "down"
    assert get_strategy() is get_strategy()
