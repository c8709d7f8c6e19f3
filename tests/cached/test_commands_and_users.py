"""What ends sessions from outside of their requests ends their copies too."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.urls import reverse

from django_strategy_sessions import end_sessions, sessions_of
from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.testing import later

from ..conftest import CACHED, DATABASE, REDIS, is_signed_in, sign_in

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def strategy(settings):
    settings.SESSION_STRATEGY = {**CACHED, "OPTIONS": {"cache": REDIS, "store": DATABASE}}
    return get_strategy()


@pytest.fixture
def user():
    return User.objects.create_user("ada")


@pytest.fixture
def signed_in(user):
    clients = [sign_in(user) for _ in range(3)]
    for _ in range(2):
        assert all(map(is_signed_in, clients))
    return clients


def test_sign_out_everywhere(user, signed_in):
    assert len(sessions_of(user)) == 3
    assert end_sessions(user) == 3
    assert not any(map(is_signed_in, signed_in))


def test_the_command_that_ends_the_sessions_of_a_user(user, signed_in):
    call_command("endsessions", user="ada", interactive=False, verbosity=0)
    assert not any(map(is_signed_in, signed_in))


def test_the_admin_deletes_sessions(admin_client, user, signed_in):
    page = reverse("admin:django_strategy_sessions_storedsession_changelist")
    theirs = StoredSession.objects.filter(owner=str(user.pk))
    chosen = [str(key) for key in theirs.values_list("pk", flat=True)]
    assert len(chosen) == 3
    given = {"action": "delete_selected", "_selected_action": chosen, "post": "yes"}
    assert admin_client.post(page, given).status_code == 302
    assert not any(map(is_signed_in, signed_in))


def test_expired_sessions_are_cleared_and_no_others(strategy):
    live, expired = strategy.insert({}, later()), strategy.insert({}, later(-60))
    for stored in (live, expired):
        strategy.load(stored.session_id)
    call_command("clearexpiredsessions", verbosity=0)
    assert strategy.load(live.session_id) is not None
    assert strategy.load(expired.session_id) is None
    keys = StoredSession.objects.values_list("pk", flat=True)
    assert expired.token.key not in {key.hex for key in keys}
