"""Django's own tests of session backends pass, unchanged, over every strategy."""

from __future__ import annotations

from django.test import TestCase, TransactionTestCase, override_settings
from sessions_tests.tests import SessionTestsMixin

from django_strategy_sessions.engine import SessionStore

from .conftest import CACHED, DATABASE, MEMORY, POSTGRES, REDIS


class _Tests(SessionTestsMixin):
    backend = SessionStore


@override_settings(SESSION_STRATEGY=MEMORY, USE_TZ=True)
class MemoryTests(_Tests, TestCase):
    pass


@override_settings(SESSION_STRATEGY=MEMORY, USE_TZ=False, TIME_ZONE="America/New_York")
class MemoryWithoutTimeZonesTests(_Tests, TestCase):
    pass


@override_settings(SESSION_STRATEGY=DATABASE, USE_TZ=True)
class DatabaseTests(_Tests, TestCase):
    pass


@override_settings(SESSION_STRATEGY=DATABASE, USE_TZ=False, TIME_ZONE="America/New_York")
class DatabaseWithoutTimeZonesTests(_Tests, TestCase):
    pass


@override_settings(SESSION_STRATEGY=POSTGRES, USE_TZ=True)
class PostgresTests(_Tests, TestCase):
    databases = {"default", "postgres"}


@override_settings(SESSION_STRATEGY=POSTGRES, USE_TZ=False, TIME_ZONE="America/New_York")
class PostgresWithoutTimeZonesTests(_Tests, TestCase):
    databases = {"default", "postgres"}


@override_settings(SESSION_STRATEGY=REDIS, USE_TZ=True)
class RedisTests(_Tests, TestCase):
    pass


@override_settings(SESSION_STRATEGY=REDIS, USE_TZ=False, TIME_ZONE="America/New_York")
class RedisWithoutTimeZonesTests(_Tests, TestCase):
    pass


@override_settings(SESSION_STRATEGY=CACHED, USE_TZ=True)
class CachedTests(_Tests, TransactionTestCase):
    """Without a transaction of the test's own, in which nothing would be put into the cache."""

    databases = {"default", "postgres"}
