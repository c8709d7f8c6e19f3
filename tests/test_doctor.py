"""``manage.py sessionsdoctor`` tells what will hurt, and finds nothing in a healthy store."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import uuid4

import freezegun
import pytest
from django.core.cache import caches
from django.core.checks import Info, Tags, run_checks
from django.core.management import call_command
from django.db import connections

from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.memory import MemoryStrategy

from .conftest import CACHED, DATABASE, POSTGRES, REDIS
from .servers import database, free_port

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


@pytest.fixture(autouse=True)
def healthy(settings):
    """A site that has nothing wrong."""
    settings.SESSION_COOKIE_SECURE = True
    settings.SILENCED_SYSTEM_CHECKS = ["strategy_sessions.W009"]  # the app is there for tests
    caches["sessions"].clear()  # other tests leave what is no session


@pytest.fixture
def redis_is_down(settings):
    settings.CACHES = {
        "sessions": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{free_port()}/0",
        }
    }


def doctor(*options):
    """Return the exit status of the command, and what it prints."""
    out = StringIO()
    try:
        call_command("sessionsdoctor", *options, stdout=out, no_color=True)
    except SystemExit as end:
        return end.code, out.getvalue()
    return 0, out.getvalue()


def findings():
    _, out = doctor("--json")
    return {
        each["id"].removeprefix("strategy_sessions."): each for each in json.loads(out)["findings"]
    }


def test_a_healthy_site_is_healthy_on_every_store(strategy):
    if strategy.is_shared:
        assert doctor() == (0, f"{type(strategy).__name__}: healthy.\n")
    else:
        assert list(findings()) == ["W008"]


def test_a_finding_is_a_line_and_a_hint_to_paste(settings):
    settings.SESSION_COOKIE_HTTPONLY = False
    settings.MIDDLEWARE = []
    settings.DEBUG = True
    status, out = doctor()
    assert status == 1
    first, *paragraphs = out.split("\n\n")
    assert first == "DatabaseStrategy: 3 warnings."
    assert len(paragraphs) == 3
    for paragraph in paragraphs:
        line, hint = paragraph.split("\n", 1)
        assert line.startswith("WARNING: ")
        exec(hint, {"MIDDLEWARE": []})
    assert "DEBUG = False" in out


def test_short_keys_count_only_where_they_sign(settings):
    settings.SECRET_KEY = "django-insecure-short"
    assert set(findings()) == {"W007", "security.W009"}
    settings.SESSION_COOKIE_SECRETS = ["a secret of more than thirty-two characters"]
    assert not findings()


class Troubled(MemoryStrategy):
    is_shared = True
    found: list[object] = []

    def examine(self, databases=None):
        yield from self.found


class Unreachable(Troubled):
    def examine(self, databases=None):
        yield Info("Something small.", id="strategy_sessions.I020")
        raise StrategyUnavailable("No answer.") from OSError("Connection refused\nmore of it")


@pytest.mark.parametrize(
    ("wrong", "option", "status"),
    [
        ({"SESSION_STRATEGY": f"{__name__}.Troubled"}, "WARNING", 0),
        ({"SESSION_COOKIE_HTTPONLY": False}, "WARNING", 1),
        ({"SESSION_COOKIE_HTTPONLY": False}, "ERROR", 0),
        ({"SESSION_ABSOLUTE_AGE": 0}, "ERROR", 2),
        ({"SESSION_ABSOLUTE_AGE": 0}, "CRITICAL", 0),
        ({"SESSION_STRATEGY": "nowhere.Strategy"}, "WARNING", 2),
        ({"SESSION_STRATEGY": f"{__name__}.Unreachable"}, "CRITICAL", 3),
    ],
)
def test_the_exit_status_is_for_monitoring(settings, wrong, option, status):
    for name, value in wrong.items():
        setattr(settings, name, value)
    assert doctor("--fail-level", option)[0] == status
    code, out = doctor("--json", "--fail-level", option)
    assert code == json.loads(out)["status"] == status


def test_what_the_store_does_not_show_is_no_failure(settings, monkeypatch):
    settings.SESSION_STRATEGY = f"{__name__}.Troubled"
    monkeypatch.setattr(Troubled, "found", [Info("Hidden.", id="strategy_sessions.I020")])
    assert doctor() == (0, "Troubled: 1 info.\n\nINFO: Hidden. (strategy_sessions.I020)\n")
    assert doctor("--fail-level", "INFO")[0] == 1


def test_a_silenced_finding_is_not_shown(settings):
    settings.SESSION_COOKIE_HTTPONLY = False
    settings.SILENCED_SYSTEM_CHECKS += ["security.W014", "security.W013", "security.W015"]
    assert doctor()[0] == 0


def test_a_store_that_is_down_is_told_apart(settings, redis_is_down):
    settings.SESSION_STRATEGY = REDIS
    status, out = doctor()
    assert status == 3
    assert "RedisStrategy could not ask its store: Error 111 connecting to 127.0.0.1" in out


# -- databases ------------------------------------------------------------------------------------


@pytest.fixture(params=[DATABASE, POSTGRES], ids=["sqlite", "postgres"])
def alias(request, settings):
    settings.SESSION_STRATEGY = request.param
    return get_strategy().alias


@contextmanager
def without(alias, *statements, back):
    with connections[alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        try:
            yield
        finally:
            cursor.execute(back)


TABLE = StoredSession._meta.db_table


def test_a_table_that_is_not_migrated_says_so_but_not_to_migrate(alias):
    back = f'ALTER TABLE "{TABLE}x" RENAME TO "{TABLE}"'
    with without(alias, f'ALTER TABLE "{TABLE}" RENAME TO "{TABLE}x"', back=back):
        assert doctor()[0] == 2
        assert "E021" in findings()
        assert not run_checks(tags=[Tags.database], databases=[alias])
    renamed = f'ALTER TABLE "{TABLE}" RENAME COLUMN {{}} TO {{}}'
    back = renamed.format("impersonators", "impersonator")
    with without(alias, renamed.format("impersonator", "impersonators"), back=back):
        assert "E021" in findings()


@pytest.mark.parametrize("index", StoredSession._meta.indexes, ids=lambda index: index.name)
def test_a_missing_index_is_found_and_the_hint_makes_it(alias, index):
    with connections[alias].cursor() as cursor:
        cursor.execute(f'DROP INDEX "{index.name}"')
        hint = findings()["W021"]["hint"]
        cursor.execute(hint)
    assert not findings()


def fill(alias, count, expires):
    StoredSession.objects.using(alias).bulk_create(
        StoredSession(id=uuid4(), data="", expires=expires, created=expires) for _ in range(count)
    )


@pytest.mark.parametrize(
    ("live", "expired", "days", "found"),
    [
        (100, 99, 0.1, None),
        (100, 120, 0.1, "about 55% of the sessions have expired."),
        (0, 50, 0.1, None),  # a young site
        (10, 1, 8, "or not often enough: some have been expired for more than 7 days."),
    ],
)
def test_expired_sessions_that_stay_are_found(alias, live, expired, days, found):
    now = datetime.now(UTC)
    fill(alias, live, now + timedelta(days=1))
    fill(alias, expired, now - timedelta(days=days))
    message = findings().get("W022")
    if found is None:
        assert message is None
    else:
        assert message["message"].endswith(found)
        call_command(*message["hint"].partition("#")[0].split()[2:], stdout=StringIO())
        assert not findings()


@pytest.mark.parametrize("store", [POSTGRES, REDIS], ids=["postgres", "redis"])
@pytest.mark.parametrize(
    ("seconds", "how"), [(-5, "ahead of that"), (5, "behind that"), (0.5, None)]
)
def test_clocks_that_disagree_are_found(settings, store, seconds, how):
    settings.SESSION_STRATEGY = store
    now = datetime.now(UTC)
    with freezegun.freeze_time(now + timedelta(seconds=seconds), tick=True):
        found = findings().get("W020")
    if how is None:
        assert found is None
    else:
        assert how in found["message"]


def test_check_asks_only_the_databases_that_it_is_told_to(settings, alias):
    fill(alias, 1, datetime.now(UTC) - timedelta(days=8))

    def check(*databases):
        return [message.id for message in run_checks(tags=[Tags.database], databases=databases)]

    assert check(alias) == ["strategy_sessions.W022"]
    assert check("down") == check() == []
    assert "strategy_sessions.W022" not in {message.id for message in run_checks()}
    settings.SESSION_STRATEGY = "nowhere.Strategy"  # another check says so
    assert check(alias) == []
    settings.SESSION_STRATEGY = REDIS
    assert check(alias) == []


def test_check_reports_a_database_that_is_down(settings, monkeypatch):
    gone = database(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")
    connections["postgres"].close()
    monkeypatch.setitem(connections["postgres"].settings_dict, "PORT", gone["PORT"])
    settings.SESSION_STRATEGY = POSTGRES
    (message,) = run_checks(tags=[Tags.database], databases=["postgres"])
    assert message.id == "strategy_sessions.E020"
    assert doctor()[0] == 3


@pytest.mark.parametrize("target", [POSTGRES, REDIS], ids=["postgres", "redis"])
def test_both_stores_are_asked_while_sessions_move(settings, target):
    settings.SESSION_STRATEGY = {
        "BACKEND": "django_strategy_sessions.strategies.moving.MovingStrategy",
        "OPTIONS": {"source": f"{__name__}.Unreachable", "target": target, "step": "move"},
    }
    with freezegun.freeze_time(datetime.now(UTC) - timedelta(seconds=5), tick=True):
        assert set(findings()) == {"I003", "I020", "E020", "W020"}


def test_the_store_is_asked_when_its_cache_is_down(settings, redis_is_down):
    settings.SESSION_STRATEGY = CACHED
    fill("postgres", 1, datetime.now(UTC) - timedelta(days=8))
    assert set(findings()) == {"W022", "W027"}
    (message,) = run_checks(tags=[Tags.database], databases=["postgres"])
    assert message.id == "strategy_sessions.W022"


def test_no_id_and_no_data_is_printed(strategy, settings):
    private = "confidential-by-all-means"
    stored = strategy.insert({private: private, "_auth_user_id": private}, datetime.now(UTC))
    settings.DEBUG = True
    now = datetime.now(UTC) + timedelta(days=30)
    with freezegun.freeze_time(now, tick=True):
        out = doctor()[1] + doctor("--json")[1]
    assert "WARNING" in out
    assert private not in out
    assert stored.session_id not in out
