"""Sessions live by the application's clock, also where a test has frozen it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import freezegun
import pytest

from django_strategy_sessions.engine import SessionStore

from ..conftest import REDIS


@pytest.mark.parametrize("year", [2000, 2012, 2100])
def test_a_session_lives_under_a_clock_that_is_frozen(settings, year):
    """Redis has a clock of its own, by which the past is over and the future far away."""
    settings.SESSION_STRATEGY = REDIS
    settings.SESSION_COOKIE_AGE = 3600
    now = datetime(year, 3, 1, 12, tzinfo=UTC)
    with freezegun.freeze_time(now) as clock:
        session = SessionStore()
        session["cart"] = ["tea"]
        session.save()
        session.cycle_key()
        assert SessionStore(session.session_key)["cart"] == ["tea"]
        later = SessionStore(session.session_key)
        clock.move_to(now + timedelta(minutes=50))
        later["cart"].append("milk")
        later.save()
        clock.move_to(now + timedelta(minutes=100))
        assert SessionStore(later.session_key)["cart"] == ["tea", "milk"]
        clock.move_to(now + timedelta(minutes=120))
        assert SessionStore(later.session_key).get("cart") is None
