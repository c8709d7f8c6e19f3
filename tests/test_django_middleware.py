"""Django's own tests of its session middleware pass, unchanged, over every strategy of ours, with
Django's middleware and with ours."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

from django.contrib.sessions.middleware import SessionMiddleware as DjangosMiddleware
from django.test import override_settings
from sessions_tests import tests as django_tests

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.middleware import SessionMiddleware

from .conftest import CACHED, DATABASE, MEMORY, POSTGRES, REDIS


class Rows:
    """Stands for Django's model, in whose table one test looks a session up."""

    @staticmethod
    def get(session_key):
        session = SessionStore(session_key)
        assert session.exists(session_key)
        return SimpleNamespace(get_decoded=session.load)


class _Tests(django_tests.SessionMiddlewareTests):
    __test__ = False  # but for its subclasses
    middleware = DjangosMiddleware

    def setUp(self):
        """Put these under the names by which the tests know Django's."""
        names = {
            "SessionMiddleware": self.middleware,
            "DatabaseSession": SessionStore,
            "Session": SimpleNamespace(objects=Rows),
        }
        patch = mock.patch.multiple(django_tests, **names)
        patch.start()
        self.addCleanup(patch.stop)


@override_settings(SESSION_STRATEGY=MEMORY)
class MemoryTests(_Tests):
    __test__ = True


@override_settings(SESSION_STRATEGY=DATABASE)
class DatabaseTests(_Tests):
    __test__ = True


@override_settings(SESSION_STRATEGY=POSTGRES)
class PostgresTests(_Tests):
    __test__ = True
    databases = {"default", "postgres"}


@override_settings(SESSION_STRATEGY=REDIS)
class RedisTests(_Tests):
    __test__ = True


@override_settings(SESSION_STRATEGY=CACHED)
class CachedTests(_Tests):
    __test__ = True
    databases = {"default", "postgres"}


class MemoryWithOurMiddlewareTests(MemoryTests):
    middleware = SessionMiddleware


class DatabaseWithOurMiddlewareTests(DatabaseTests):
    middleware = SessionMiddleware


class PostgresWithOurMiddlewareTests(PostgresTests):
    middleware = SessionMiddleware


class RedisWithOurMiddlewareTests(RedisTests):
    middleware = SessionMiddleware


class CachedWithOurMiddlewareTests(CachedTests):
    middleware = SessionMiddleware
