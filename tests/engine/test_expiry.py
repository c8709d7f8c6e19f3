"""When sessions end: in a future year, because no test moves the clock of Redis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import timezone

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.state import expires_after
from django_strategy_sessions.strategies import get_strategy

from .conftest import again, saved

pytestmark = pytest.mark.usefixtures("strategy")


def test_sliding_expiry_moves_in_steps_and_never_ends_early(strategy):
    age = 14 * 24 * 3600
    with time_machine.travel(datetime(2036, 1, 1, tzinfo=UTC), tick=False) as clock:
        first = expires_after(age)
        assert first - datetime.now(UTC) >= timedelta(seconds=age)
        clock.shift(299)
        assert expires_after(age) - first <= timedelta(seconds=300)
        assert expires_after(age) - datetime.now(UTC) >= timedelta(seconds=age)
        for length in (0.5, 10, 100, 3600, 10**8):
            late = expires_after(length) - datetime.now(UTC) - timedelta(seconds=length)
            assert timedelta(0) <= late <= timedelta(seconds=min(length / 100, 300) + 0.001)
        for length in (0, -10):
            assert expires_after(length) == datetime.now(UTC) + timedelta(seconds=length)


def test_setting_modified_writes_only_when_the_expiry_step_has_moved(calls):
    with time_machine.travel(datetime(2036, 1, 1, tzinfo=UTC), tick=False) as clock:
        session = saved(a=1)
        calls.clear()
        session = again(session)
        session.modified = True
        session.save()
        clock.shift(301)
        session = again(session)
        session.modified = True
        session.save()
        session.save()
    # What has nothing to write asks whether the session lives, because its key is to be sent.
    assert calls == ["load", "load", "load", "merge", "load"]


def test_a_session_ends_exactly_at_its_expiry(settings):
    settings.SESSION_COOKIE_AGE = 1000
    with time_machine.travel(datetime(2036, 1, 1, tzinfo=UTC), tick=False) as clock:
        session = saved(a=1)
        clock.shift(999.9)
        assert again(session)["a"] == 1
        clock.shift(10.2)  # a step is ten seconds
        assert again(session).get("a") is None
        late = again(session)
        late["b"] = 1
        late.save()
        assert late.session_key != session.session_key


def test_dates_are_exact(strategy):
    end = datetime(2037, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
    session = SessionStore()
    session.set_expiry(end)
    session.save()
    assert strategy.load(session.session_key[:22]).expires == end
    assert session.get_expiry_date() == end


def test_an_absolute_age_is_applied_last_and_exactly(settings, strategy):
    settings.SESSION_ABSOLUTE_AGE = 5000
    settings.SESSION_COOKIE_AGE = 1000
    start = datetime(2036, 1, 1, tzinfo=UTC)
    with time_machine.travel(start, tick=False) as clock:
        session = saved(n=0)
        for n in range(1, 6):
            clock.shift(900)
            session = again(session)
            session["n"] = n
            session.save() if n % 2 else session.cycle_key()
        stored = get_strategy().load(session.session_key[:22])
        assert stored.created == start
        assert stored.expires == start + timedelta(seconds=5000)
        clock.shift(501)
        assert again(session).get("n") is None


def test_an_absolute_age_holds_for_sessions_from_before_it_was_set(settings):
    with time_machine.travel(datetime(2036, 1, 1, tzinfo=UTC), tick=False) as clock:
        session = saved(a=1)
        clock.shift(100)
        settings.SESSION_ABSOLUTE_AGE = 100
        # The strategy was made anew with the setting; memory went with the old one.
        assert again(session).get("a") is None


@pytest.mark.parametrize("use_tz", [True, False])
def test_daylight_saving_moves_no_expiry(settings, use_tz):
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "America/New_York"
    # Ten minutes before clocks go back: half past one comes twice.
    with time_machine.travel(datetime(2036, 11, 2, 5, 55, tzinfo=UTC), tick=False) as clock:
        session = SessionStore()
        session["a"] = 1
        session.set_expiry(timedelta(minutes=10))
        session.save()
        assert session.get_expiry_age() == 600
        clock.shift(599)
        assert again(session)["a"] == 1
        assert again(session).get_expiry_age() == 1
        clock.shift(2)
        assert again(session).get("a") is None
        clock.shift(3599)  # where it is ten past one again
        assert again(session).get("a") is None
        session = SessionStore()
        session.set_expiry(timezone.now() + timedelta(hours=2))
        session.save()
        assert session.get_expiry_age() == 7200
