"""``manage.py clearexpiredsessions``: run as cron runs it, and interrupted as operators do."""

from __future__ import annotations

import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from threading import Event
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models.signals import post_delete
from django.db.utils import OperationalError

from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.strategies.base import SessionStrategy, StrategyUnavailable
from django_strategy_sessions.strategies.memory import MemoryStrategy

from .conftest import REDIS, STRATEGIES

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


def process(*options, environment=None, **streams):
    """The command in a process of its own, on this test's database."""
    return subprocess.Popen(
        [sys.executable, "-m", "django", "clearexpiredsessions", *options],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONUNBUFFERED": "1",  # lines arrive as they are said
            "TEST_DATABASE": str(connection.settings_dict["NAME"]),
            **(environment or {}),
        },
        # A suite in the background of a shell ignores Ctrl-C, and so would the command.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
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
def test_it_stops_at_its_time_limit_and_reports_how_many_remain(strategy):
    fill(5)
    out = clear("--batch-size=1", "--max-seconds=0")
    assert out == "Deleted 1 expired sessions. Stopped after 0 seconds: 4 remain.\n"
    assert strategy.count_expired() == 4
    assert clear("--batch-size=4", "--max-seconds=0") == "Deleted 4 expired sessions.\n"


@pytest.mark.parametrize("verbosity", [0, 1])
def test_remaining_sessions_set_an_exit_status_on_request(verbosity):
    fill(5)
    options = ("--max-seconds=0", "--fail-if-remaining", f"--verbosity={verbosity}")
    run = process("--batch-size=3", *options)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (3, "CommandError: 2 expired sessions remain.\n")
    said = "Deleted 3 expired sessions. Stopped after 0 seconds: 2 remain.\n"
    assert out == (said if verbosity else "")
    run = process("--batch-size=3", *options)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    assert out == ("Deleted 2 expired sessions.\n" if verbosity else "")


@pytest.mark.parametrize("option", ["--batch-size=0", "--max-seconds=-1", "--sleep=nan"])
def test_invalid_options_are_refused(option):
    with pytest.raises(CommandError):
        clear(option)


def test_djangos_own_command_works_too(strategy):
    fill(3)
    call_command("clearsessions")
    assert strategy.count_expired() == 0


def test_the_sessions_that_expired_first_are_deleted_first():
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


def test_an_outage_is_an_error_that_says_earlier_deletions_stay(settings):
    settings.SESSION_STRATEGY = f"{__name__}.Unavailable"
    with pytest.raises(CommandError, match=r"down\. What was deleted before stays") as error:
        clear()
    assert isinstance(error.value.__cause__, StrategyUnavailable)


def test_two_commands_at_once_delete_each_session_once():
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


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_nothing_half_done(number, expected):
    said, err, status = interrupted(number)
    assert (status, err) == (expected, "")
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


def test_the_project_keeps_its_own_answer_to_sigterm():
    fill(1)
    signal.signal(signal.SIGTERM, mine := lambda number, frame: None)
    try:
        clear()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_it_runs_in_threads_too_where_no_signal_can_be_handled():
    fill(1)

    def clear_here():
        try:
            return clear()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(clear_here).result() == "Deleted 1 expired sessions.\n"


def on_terminal(*options, terminate_at=None, status=0, **given):
    """Run the command on a terminal of 80 columns; return all that it wrote there, and its stdout.

    It is sent a SIGTERM when what matches `terminate_at` was written.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    run = process(*options, stderr=theirs, **{"stdout": theirs, **given})
    os.close(theirs)
    written = b""
    try:
        while select.select([ours], [], [], 60)[0] and (part := os.read(ours, 4096)):
            written += part
            if terminate_at and re.search(terminate_at, written, re.DOTALL):
                run.send_signal(signal.SIGTERM)
                terminate_at = None
    except OSError:  # Linux's way to say that the other end is closed
        pass
    finally:
        os.close(ours)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == status
    return written.decode(), out


def screen(written):
    """The lines that a terminal shows in the end: after a return, text overwrites text."""
    lines = []
    for line in written.split("\n"):
        shown = ""
        for text in line.split("\r"):
            shown = text + shown[len(text) :]
        lines.append(shown.rstrip())
    return lines


@pytest.fixture(params=["with tqdm", "without"])
def environment(request, tmp_path):
    """That of a process in which tqdm can, or cannot, be imported."""
    if request.param == "with tqdm":
        return {}
    (tmp_path / "tqdm.py").write_text("raise ImportError")
    return {"PYTHONPATH": str(tmp_path)}


def test_a_terminal_sees_progress_and_a_pipe_gets_one_line(environment):
    fill(30)
    written, out = on_terminal("--batch-size=10", environment=environment, stdout=subprocess.PIPE)
    assert "0/30" in written
    assert "30/30" in screen(written)[0]
    assert ("it/s" in written or "sessions/s" in written) == (not environment)  # tqdm's
    assert out == "Deleted 30 expired sessions.\n"
    fill(1)
    out, err = process(environment=environment).communicate(timeout=60)
    assert (out, err) == ("Deleted 1 expired sessions.\n", "")


def test_messages_about_batches_do_not_break_the_progress_line(environment):
    fill(30)
    written, _ = on_terminal("--batch-size=10", "--verbosity=2", environment=environment)
    *batches, progress, total, end = screen(written)
    assert batches == ["Deleted 10 expired sessions."] * 3
    assert "30/30" in progress
    assert (total, end) == ("Deleted 30 expired sessions.", "")


def test_sigterm_does_not_break_the_progress_line(environment):
    fill(30)
    written, _ = on_terminal(
        *("--batch-size=10", "--sleep=60", "--verbosity=2"),
        environment=environment,
        terminate_at=b"Deleted 10 .*10/30",  # the line that is drawn again after the batch's
        status=143,
    )
    batch, progress, said, end = screen(written)
    assert batch == "Deleted 10 expired sessions."
    assert "10/30" in progress
    assert (said, end) == ("Interrupted. Deleted 10 expired sessions.", "")
