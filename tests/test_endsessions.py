"""``manage.py endsessions``: signs out one user, or everybody, on every strategy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection

from django_strategy_sessions import sessions_of
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.signals import session_ended
from django_strategy_sessions.strategies.base import StrategyUnavailable

from .test_admin_users import is_signed_in, make, sign_in
from .test_contract_catches import DictStrategy

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ada():
    return make("ada")


@pytest.fixture
def grace():
    return make("grace", is_staff=True)


@pytest.fixture
def receive():
    receivers = []

    def connect(receiver):
        receivers.append(receiver)
        session_ended.connect(receiver)

    yield connect
    for receiver in receivers:
        session_ended.disconnect(receiver)


@pytest.fixture
def answer(monkeypatch):
    """Answer the question; return the list of questions."""
    questions = []

    def prepare(text):
        monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or text)
        return questions

    return prepare


def end(*options, **named):
    out = StringIO()
    call_command("endsessions", *options, stdout=out, **named)
    return out.getvalue()


# -- on every strategy -----------------------------------------------------------------------------


def test_one_user_is_signed_out_everywhere(strategy, ada, grace, receive):
    told = []
    receive(lambda owner, reason, **kwargs: told.append((owner, reason)))
    devices, other = [sign_in(ada) for _ in range(3)], sign_in(grace)
    assert end("--user=ada", "--no-input") == "Ended 3 sessions.\n"
    assert not any(map(is_signed_in, devices))
    assert is_signed_in(other)
    assert told == [(str(ada.pk), "staff")] * 3
    assert end("--user=ada", "--no-input") == "Ended 0 sessions.\n"


def test_everybody_is_signed_out(strategy, ada, grace):
    anonymous = SessionStore()
    anonymous["cart"] = [1]
    anonymous.save()
    devices = [sign_in(ada), sign_in(ada), sign_in(grace)]
    assert end("--all", "--no-input") == "Ended 3 sessions.\n"
    assert not any(map(is_signed_in, devices))
    assert SessionStore(anonymous.session_key)["cart"] == [1]


def test_staff_are_left_out_on_request(strategy, ada, grace):
    device, of_staff = sign_in(ada), sign_in(grace)
    assert end("--all", "--except-staff", "--no-input") == "Ended 1 sessions.\n"
    assert not is_signed_in(device)
    assert is_signed_in(of_staff)


def test_the_command_counts_and_asks_first(strategy, ada, grace, answer):
    devices = [sign_in(ada), sign_in(grace)]
    questions = answer("no")
    assert end("--all") == "Ended nothing.\n"
    assert all(map(is_signed_in, devices))
    answer("yes")
    assert end("--user=ada") == "Ended 1 sessions.\n"
    assert end("--all") == "Ended 1 sessions.\n"
    assert [question.partition(".")[0] for question in questions] == [
        "This ends 2 sessions",
        "This ends 1 sessions",
        "This ends 1 sessions",
    ]


# -- on one of them --------------------------------------------------------------------------------


def test_the_command_does_not_ask_if_there_is_nothing_to_end(ada, answer):
    questions = answer("no")
    assert end("--user=ada") == "There are no sessions to end.\n"
    assert questions == []


def test_impersonation_counts_once(ada, grace, answer):
    session = sign_in(ada).session
    session["hijack_history"] = [str(grace.pk)]
    session.save()
    questions = answer("yes")
    assert end("--all") == "Ended 1 sessions.\n"
    assert questions[0].startswith("This ends 1 sessions.")


def test_verbosity_is_honoured(ada):
    sign_in(ada)
    assert end("--user=ada", "--no-input", verbosity=0) == ""
    assert sessions_of(ada) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments --user --all is required"),
        (["--user=ada", "--all"], "not allowed with argument"),
        (["--user=ada", "--except-staff"], "--except-staff needs --all"),
        (["--user=nobody", "--no-input"], "There is no user 'nobody'"),
        (["--user=nobody"], "There is no user 'nobody'"),
        (["--user=", "--no-input"], "There is no user ''"),
    ],
)
def test_wrong_options_end_nothing(ada, options, message):
    device = sign_in(ada)
    with pytest.raises(CommandError, match=message):
        end(*options)
    assert is_signed_in(device)


def test_without_an_answer_the_command_ends_nothing(ada):
    device = sign_in(ada)
    done = subprocess.run(
        [sys.executable, "-m", "django", "endsessions", "--user=ada"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "tests.settings"),
            "TEST_DATABASE": str(connection.settings_dict["NAME"]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "--no-input" in done.stderr
    assert is_signed_in(device)


def test_a_strategy_that_cannot_find_users_says_which_can(ada, monkeypatch):
    monkeypatch.setattr("django_strategy_sessions.users.get_strategy", DictStrategy)
    with pytest.raises(CommandError, match=r"DictStrategy cannot .* RedisStrategy"):
        end("--user=ada", "--no-input")


def test_a_store_that_is_down_is_an_error(ada, settings):
    settings.SESSION_STRATEGY = {
        "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",
        "OPTIONS": {"alias": "down"},
    }
    settings.CACHES = {
        **settings.CACHES,
        "down": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"},
    }
    with pytest.raises(CommandError, match="What was ended before stays ended") as failed:
        end("--all", "--no-input")
    assert isinstance(failed.value.__cause__, StrategyUnavailable)


def test_sigterm_stops_the_command_which_says_how_many_it_ended(ada, grace, receive):
    devices = [sign_in(ada), sign_in(grace)]
    receive(lambda **kwargs: os.kill(os.getpid(), signal.SIGTERM))
    out = StringIO()
    with pytest.raises(SystemExit) as stopped:
        call_command("endsessions", "--all", "--no-input", stdout=out)
    assert stopped.value.code == 143
    assert out.getvalue().startswith("Interrupted. Ended ")
    assert [is_signed_in(device) for device in devices].count(True) == 1


def test_a_user_model_without_staff_cannot_leave_them_out(ada, monkeypatch):
    for model in get_user_model().__mro__:
        if "is_staff" in vars(model):
            monkeypatch.delattr(model, "is_staff")
    with pytest.raises(CommandError, match="needs a user model that has is_staff"):
        end("--all", "--except-staff", "--no-input")
