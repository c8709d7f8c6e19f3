"""``manage.py clearexpiredsessions``: run as cron runs it, and interrupted as operators do."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import StringIO
from threading import Event
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models.signals import post_delete
from django.db.utils import OperationalError

from django_strategy_sessions.conf import get_strategy
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies.base import SessionStrategy, StrategyUnavailable
from django_strategy_sessions.strategies.memory import MemoryStrategy

from .conftest import DATABASE, REDIS, STRATEGIES

MANY = 20_000  # more than are deleted before a signal arrives

pytestmark = pytest.mark.django_db(transaction=True)


def later(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


def fill(expired, live=1):
    strategy = get_strategy()
    for number in range(expired):
        strategy.insert({}, later(-1 - number))
    for _ in range(live):
        strategy.insert({}, later(3600))


def clear(*options, **named):
    out = StringIO()
    call_command("clearexpiredsessions", *options, stdout=out, **named)
    return out.getvalue()


def process(*options, **streams):
    """The command in a process of its own, on this test's database."""
    return subprocess.Popen(
        [sys.executable, "-m", "django", "clearexpiredsessions", *options],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONUNBUFFERED": "1",  # lines arrive as they are said
            "TEST_DATABASE": str(connection.settings_dict["NAME"]),
        },
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **streams},
    )


# Redis expires them by itself.
of_strategies_that_need_it = pytest.mark.parametrize(
    "strategy", [each for each in STRATEGIES if each.id != "redis"], indirect=True
)


@of_strategies_that_need_it
def test_only_expired_sessions_go(strategy):
    fill(25, live=3)
    assert clear("--batch-size=10") == "Deleted 25 expired sessions.\n"
    assert clear() == "Deleted 0 expired sessions.\n"
    assert strategy.count_expired() == 0


@of_strategies_that_need_it
def test_nothing_is_deleted_in_a_dry_run(strategy):
    fill(5)
    assert clear("--dry-run") == "5 sessions are expired.\n"
    assert strategy.count_expired() == 5


@of_strategies_that_need_it
def test_verbosity_is_honoured(strategy):
    fill(5)
    assert clear("--batch-size=2", verbosity=0) == ""
    fill(5)
    assert clear("--batch-size=2", verbosity=2).splitlines() == [
        "Deleted 2 expired sessions.",
        "Deleted 2 expired sessions.",
        "Deleted 1 expired sessions.",
        "Deleted 5 expired sessions.",
    ]


@of_strategies_that_need_it
def test_it_stops_when_its_time_is_over(strategy):
    fill(5)
    out = clear("--batch-size=1", "--max-seconds=0")
    assert out == "Deleted 1 expired sessions. Stopped after 0 seconds.\n"
    assert strategy.count_expired() == 4


@pytest.mark.parametrize("option", ["--batch-size=0", "--max-seconds=-1", "--sleep=nan"])
def test_senseless_options_are_refused(option):
    with pytest.raises(CommandError):
        clear(option)


def test_djangos_own_command_works_too(strategy):
    fill(3)
    call_command("clearsessions")
    assert strategy.count_expired() == 0


def test_the_longest_expired_go_first():
    fill(10)
    clear("--batch-size=3", "--max-seconds=0")
    gone = StoredSession.objects.filter(expires__lt=later(-8.5))
    assert gone.count() == 0
    assert StoredSession.objects.count() == 8


def test_each_batch_is_one_short_transaction(django_assert_num_queries):
    fill(4)
    clear("--dry-run")
    with django_assert_num_queries(5):  # SELECT and DELETE, twice; an empty SELECT
        clear("--batch-size=2")


def test_a_listener_to_deletions_does_not_load_the_table(django_assert_max_num_queries):
    fill(20)
    post_delete.connect(listener := lambda **kwargs: None)
    try:
        with django_assert_max_num_queries(12):
            assert clear("--batch-size=5") == "Deleted 20 expired sessions.\n"
    finally:
        post_delete.disconnect(listener)


class CannotClear(SessionStrategy):
    pass


class Unavailable(MemoryStrategy):
    def clear_expired(self, batch_size):
        yield batch_size
        raise StrategyUnavailable("The store is down.") from OperationalError()


def test_a_store_that_expires_by_itself_says_so(settings):
    settings.SESSION_STRATEGY = REDIS
    fill(1)
    said = "Nothing to do: expired sessions of RedisStrategy vanish by themselves.\n"
    assert clear() == clear("--dry-run") == said


def test_a_strategy_that_cannot_says_so(settings):
    settings.SESSION_STRATEGY = f"{__name__}.CannotClear"
    with pytest.raises(CommandError, match="CannotClear cannot clear"):
        clear()


def test_an_outage_is_an_error_that_says_what_stands(settings):
    settings.SESSION_STRATEGY = f"{__name__}.Unavailable"
    with pytest.raises(CommandError, match=r"down\. What was deleted before stays") as error:
        clear()
    assert isinstance(error.value.__cause__, StrategyUnavailable)


def test_two_at_once_add_up():
    fill(400)
    runs = [process("--batch-size=7") for _ in range(2)]
    results = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], results
    counts = [int(out.split()[1]) for out, _err in results]
    assert sum(counts) == 400
    assert StoredSession.objects.count() == 1


@of_strategies_that_need_it
def test_a_session_that_is_renewed_at_its_last_moment_stays(strategy):
    over = Event()

    def renew(seed):
        """Sessions shortly before they end, or a little too late; tell those that were renewed."""
        chance, renewed, slack = random.Random(seed), [], 0.005
        while len(renewed) < 40:
            one = strategy.insert({"seed": seed}, later(4 * slack))
            moment = one.expires - timedelta(seconds=chance.uniform(-0.1, 1) * slack)
            over.wait((moment - datetime.now(UTC)).total_seconds())
            if strategy.merge(one, one.data, later(3600)):
                renewed.append(one)
            else:
                slack *= 1.05  # a slow store on a slow machine wants more
        connections.close_all()
        return renewed

    def clean():
        while not over.is_set():
            for _count in strategy.clear_expired(50):
                pass
        connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        cleaning = pool.submit(clean)
        try:
            renewed = [one for each in pool.map(renew, range(3)) for one in each]
        finally:
            over.set()
        cleaning.result()
    for one in renewed:
        assert strategy.read_data(one.session_id) == one.data


def interrupted(number):
    """Fill, start, wait for two batches, send a signal; return what was said and the status."""
    ended = {"data": "", "expires": later(-10), "created": later(-20)}
    StoredSession.objects.bulk_create(StoredSession(id=uuid4(), **ended) for _ in range(MANY))
    run = process("--batch-size=5", "--verbosity=2")
    said = [run.stdout.readline(), run.stdout.readline()]
    run.send_signal(number)
    out, err = run.communicate(timeout=60)
    said += out.splitlines(keepends=True)
    return said, err, run.returncode


def test_ctrl_c_leaves_nothing_half_done():
    said, err, status = interrupted(signal.SIGINT)
    assert status == 130, err
    assert said[-1].startswith("Interrupted. Deleted ")
    deleted = int(said[-1].split()[2].replace(",", ""))
    assert deleted % 5 == 0
    left = StoredSession.objects.count()
    assert MANY - deleted - left in {0, 5}  # a batch may end as the signal comes, uncounted
    assert clear() == f"Deleted {left:,} expired sessions.\n"


def test_kill_9_leaves_nothing_half_done():
    _said, _err, status = interrupted(signal.SIGKILL)
    assert status == -signal.SIGKILL
    left = StoredSession.objects.count()
    assert left % 5 == 0
    assert 0 < left < MANY
    assert clear() == f"Deleted {left:,} expired sessions.\n"


def test_a_terminal_gets_a_progress_bar_and_a_pipe_one_line(settings):
    settings.SESSION_STRATEGY = DATABASE
    fill(30)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    run = process("--batch-size=10", stderr=theirs)
    out, _ = run.communicate(timeout=60)
    os.close(theirs)
    bar = b""
    try:
        while part := os.read(ours, 4096):
            bar += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    finally:
        os.close(ours)
    assert b"30/30" in bar
    assert out == "Deleted 30 expired sessions.\n"
    fill(1)
    out, err = process().communicate(timeout=60)
    assert (out, err) == ("Deleted 1 expired sessions.\n", "")
