"""The sessions of a user: listed, ended one by one or all at once, and limited in number."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.base import UpdateError
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import translation

from django_strategy_sessions import (
    CannotListSessions,
    aend_session,
    aend_sessions,
    asessions_of,
    end_session,
    end_sessions,
    sessions_of,
)
from django_strategy_sessions.conf import conf
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.sign_ins import SignIn
from django_strategy_sessions.signals import session_ended
from django_strategy_sessions.strategies import get_strategy

from .conftest import is_signed_in, sign_in
from .test_contract_catches import DictStrategy

pytestmark = pytest.mark.django_db(transaction=True)

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:131.0) Gecko/20100101 Firefox/131.0"


@pytest.fixture
def ada(strategy, db):
    # A name of its own, because Redis remembers the sessions of earlier tests' users.
    return User.objects.create_user(f"ada-{uuid.uuid4()}", pk=uuid.uuid4().int % 10**15)


@pytest.fixture
def grace(strategy, db):
    return User.objects.create_user(f"grace-{uuid.uuid4()}", pk=uuid.uuid4().int % 10**15)


# -- the list --------------------------------------------------------------------------------------


def test_the_list_has_the_users_sessions_and_marks_the_current_one(ada, grace):
    phone, desktop, other = sign_in(ada), sign_in(ada), sign_in(grace)
    entries = sessions_of(ada, current=phone.session)
    assert [one.is_current for one in entries] == [False, True]  # the newest first
    for entry in entries:
        assert entry.created <= datetime.now(UTC) < entry.expires
        assert entry.sign_in is None
        for client in (phone, desktop, other):
            assert client.session.session_key not in repr(entry)
            assert client.session.session_key.partition(".")[0] not in repr(entry)
    assert len({one.reference for one in entries}) == 2
    assert not any(one.is_current for one in sessions_of(ada))


def test_async_code_has_the_same_functions(ada):
    phone, desktop = sign_in(ada), sign_in(ada)

    async def main():
        session = SessionStore(phone.cookies["sessionid"].value)
        entries = await asessions_of(ada, current=session)
        assert [one.is_current for one in entries] == [False, True]
        assert await aend_session(ada, entries[0].reference) == 1
        assert await aend_session(ada, entries[0].reference) == 0
        assert await aend_sessions(ada, keep=session) == 0
        assert await aend_sessions(ada) == 1

    async_to_sync(main)()
    assert not is_signed_in(phone)
    assert not is_signed_in(desktop)


def test_a_session_leaves_the_list_at_logout_and_at_its_end(ada):
    phone, desktop = sign_in(ada), sign_in(ada)
    phone.logout()
    assert len(sessions_of(ada)) == 1
    session = desktop.session
    session.set_expiry(datetime.now(UTC) - timedelta(seconds=1))
    session.save()
    assert sessions_of(ada) == []


def test_a_new_key_is_still_one_session(ada):
    phone = sign_in(ada)
    before = sessions_of(ada)[0]
    session = phone.session
    session.cycle_key()
    session.save()
    (after,) = sessions_of(ada, current=session)
    assert after.is_current
    assert after.reference != before.reference
    assert after.created == before.created
    assert end_session(ada, before.reference) == 1  # from a page that was open meanwhile
    assert not SessionStore(session.session_key).get("_auth_user_id")


def test_nobody_has_no_sessions(strategy):
    assert sessions_of(AnonymousUser()) == []
    assert end_session(AnonymousUser(), "0" * 32) == 0
    assert end_sessions(AnonymousUser()) == 0


def test_a_deleted_user_is_an_error_and_not_an_empty_list(ada):
    sign_in(ada)
    ada.delete()
    with pytest.raises(ValueError, match="before you delete"):
        end_sessions(ada)


# -- ending ----------------------------------------------------------------------------------------


def test_one_session_ends_and_the_others_stay(ada, ended):
    phone, desktop = sign_in(ada), sign_in(ada)
    (gone,) = [one for one in sessions_of(ada, current=phone.session) if not one.is_current]
    assert end_session(ada, gone.reference) == 1
    assert is_signed_in(phone)
    assert not is_signed_in(desktop)
    assert ended == [(str(ada.pk), "user")]


def test_nobody_ends_a_session_of_another_user(ada, grace, ended):
    phone = sign_in(ada)
    (entry,) = sessions_of(ada)
    sign_in(grace)
    assert end_session(grace, entry.reference) == 0
    assert is_signed_in(phone)
    assert ended == []


@pytest.mark.parametrize("reference", ["", "x", "0" * 32, "'; --", "é" * 32, "\0"])
def test_a_reference_that_somebody_made_up_ends_nothing(ada, reference):
    phone = sign_in(ada)
    assert end_session(ada, reference) == 0
    assert is_signed_in(phone)


def test_everywhere_else_keeps_this_session(ada, grace, ended):
    clients, other = [sign_in(ada) for _ in range(3)], sign_in(grace)
    assert end_sessions(ada, keep=clients[1].session) == 2
    assert [is_signed_in(client) for client in clients] == [False, True, False]
    assert end_sessions(ada) == 1
    assert not is_signed_in(clients[1])
    assert is_signed_in(other)
    assert ended == [(str(ada.pk), "user")] * 3


def test_the_session_to_keep_survives_its_own_rotation(ada):
    sign_in(ada)
    key = sign_in(ada).session.session_key
    kept, meanwhile = SessionStore(key), SessionStore(key)
    assert kept["_auth_user_id"]
    meanwhile.cycle_key()
    assert end_sessions(ada, keep=kept) == 1
    assert SessionStore(meanwhile.session_key)["_auth_user_id"] == str(ada.pk)


def test_the_session_to_keep_survives_a_rotation_while_the_others_are_listed(ada, monkeypatch):
    kept = SessionStore(sign_in(ada).session.session_key)
    meanwhile = SessionStore(kept.session_key)
    assert kept["_auth_user_id"]
    strategy = get_strategy()
    real = strategy.find_owned

    def list_after_rotation(owner):
        monkeypatch.undo()
        meanwhile.cycle_key()
        return real(owner)

    monkeypatch.setattr(strategy, "find_owned", list_after_rotation)
    assert end_sessions(ada, keep=kept) == 0
    assert SessionStore(meanwhile.session_key)["_auth_user_id"] == str(ada.pk)


def test_a_save_in_flight_does_not_bring_an_ended_session_back(ada):
    late = SessionStore(sign_in(ada).session.session_key)
    assert late["_auth_user_id"]
    end_sessions(ada)
    late["cart"] = [1]
    with pytest.raises(UpdateError):
        late.save()
    assert sessions_of(ada) == []


def test_a_session_of_another_engine_cannot_be_kept(ada):
    from django.contrib.sessions.backends.signed_cookies import SessionStore as Other

    with pytest.raises(TypeError, match="needs a session of our engine"):
        end_sessions(ada, keep=Other())


def test_a_strategy_that_cannot_find_users_says_which_can(settings, ada, monkeypatch):
    monkeypatch.setattr("django_strategy_sessions.users.get_strategy", DictStrategy)
    with pytest.raises(CannotListSessions, match=r"DictStrategy cannot .* RedisStrategy"):
        end_sessions(ada)


# -- impersonation: as django-hijack keeps it ------------------------------------------------------


def test_impersonation_is_found_under_both_users(ada, grace):
    client = sign_in(ada)
    session = client.session
    session["hijack_history"] = [str(grace.pk)]
    session.save()
    for user in (ada, grace):
        assert [one.is_impersonated for one in sessions_of(user)] == [True]
    assert end_sessions(grace) == 1
    assert sessions_of(ada) == []
    assert not is_signed_in(client)


# -- where it signed in ----------------------------------------------------------------------------


def read_forwarded(request):
    return request.META["HTTP_X_FORWARDED_FOR"].partition(",")[0]


def login_request(**headers):
    from django.contrib.auth import login
    from django.test import RequestFactory

    request = RequestFactory().get("/", REMOTE_ADDR="203.0.113.7", headers=headers)
    request.session = SessionStore()

    def log_in(user):
        login(request, user, "django.contrib.auth.backends.ModelBackend")
        request.session.save()
        return request.session

    return log_in


def test_a_sign_in_is_noted_if_the_project_wants_that(ada, settings):
    login_request(user_agent=FIREFOX)(ada)
    settings.SESSION_SIGN_INS = True
    login_request(user_agent=FIREFOX)(ada)
    noted, before = sessions_of(ada)
    assert before.sign_in is None
    assert noted.sign_in.address == "203.0.113.7"
    assert noted.sign_in.user_agent == FIREFOX
    assert noted.sign_in.device == "Firefox on Windows"
    assert abs(noted.sign_in.at - noted.created) < timedelta(seconds=5)


def test_behind_a_proxy_the_project_says_what_the_address_is(ada, settings):
    settings.SESSION_SIGN_INS = True
    settings.SESSION_SIGN_IN_ADDRESS = "tests.test_users.read_forwarded"
    login_request(x_forwarded_for="198.51.100.9, 10.0.0.1")(ada)
    assert sessions_of(ada)[0].sign_in.address == "198.51.100.9"


@pytest.mark.parametrize(
    ("agent", "device"), [("", ""), ("my own client", "my own client"), ("x" * 70, "x" * 59 + "…")]
)
def test_an_unknown_device_is_shown_by_its_user_agent(agent, device):
    assert SignIn(datetime.now(UTC), agent, None).device == device


def test_a_device_is_named_in_the_readers_language():
    with translation.override("de"):
        assert SignIn(datetime.now(UTC), FIREFOX, None).device == "Firefox unter Windows"


def test_only_a_sign_in_is_noted(ada, settings, calls):
    settings.SESSION_SIGN_INS = True
    key = login_request()(ada).session_key
    calls.clear()
    session = SessionStore(key)
    assert session["_auth_user_id"]
    session.save()
    assert calls == ["load"]


# -- the signal ------------------------------------------------------------------------------------


def test_a_logout_is_told_with_its_owner(ada, ended):
    sign_in(ada).logout()
    assert ended == [(str(ada.pk), "logout")]


def test_a_logout_is_told_even_if_nothing_was_read_before(ada, ended):
    SessionStore(sign_in(ada).session.session_key).flush()
    assert ended == [(str(ada.pk), "logout")]


def test_the_end_of_an_anonymous_session_is_not_told(strategy, ended):
    session = SessionStore()
    session["cart"] = [1]
    session.save()
    session.flush()
    assert ended == []


def test_async_code_tells_it_too(ada, ended):
    session = SessionStore(sign_in(ada).session.session_key)
    async_to_sync(session.aflush)()
    assert ended == [(str(ada.pk), "logout")]


def test_a_receiver_that_fails_does_not_undo_a_logout(ada):
    def fail(**kwargs):
        raise RuntimeError("the websocket server is down")

    client = sign_in(ada)
    session_ended.connect(fail)
    try:
        client.logout()
    finally:
        session_ended.disconnect(fail)
    assert sessions_of(ada) == []


def test_without_receivers_a_logout_loads_nothing(ada, calls):
    key = sign_in(ada).session.session_key
    calls.clear()
    SessionStore(key).flush()
    assert calls == ["delete_data"]


# -- the limit -------------------------------------------------------------------------------------


def test_a_sign_in_beyond_the_limit_ends_the_oldest(ada, settings, ended):
    settings.SESSION_LIMIT_PER_USER = 2
    keys = [login_request()(ada).session_key for _ in range(3)]
    alive = [bool(SessionStore(key).get("_auth_user_id")) for key in keys]
    assert alive == [False, True, True]
    assert ended == [(str(ada.pk), "limit")]


def test_a_save_that_signs_nobody_in_ends_nothing(ada, monkeypatch):
    keys = [login_request()(ada).session_key for _ in range(3)]
    # The setting itself would make a new strategy, and one in memory would be empty.
    monkeypatch.setitem(vars(conf), "SESSION_LIMIT_PER_USER", 1)
    session = SessionStore(keys[0])
    session["cart"] = [1]
    session.save()
    session.cycle_key()
    assert len(sessions_of(ada)) == 3


def test_impersonation_does_not_count(ada, grace, settings):
    settings.SESSION_LIMIT_PER_USER = 1
    key = login_request()(ada).session_key
    request = SessionStore()
    request.update({"_auth_user_id": str(ada.pk), "hijack_history": [str(grace.pk)]})
    request.save()
    assert SessionStore(key)["_auth_user_id"] == str(ada.pk)
    login_request()(ada)
    assert [one.is_impersonated for one in sessions_of(ada)].count(True) == 1


def test_of_sign_ins_at_once_no_more_than_the_limit_stay(ada, settings):
    settings.SESSION_LIMIT_PER_USER = 3
    log_in = [login_request() for _ in range(8)]
    start = Barrier(len(log_in))

    def at_once(one):
        start.wait(30)
        try:
            return one(ada).session_key
        except UpdateError:
            return None  # newer ones took its place
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(log_in)) as threads:
        keys = list(threads.map(at_once, log_in))
    alive = [key for key in keys if key and SessionStore(key).get("_auth_user_id")]
    assert len(alive) == len(sessions_of(ada)) == 3


def test_a_sign_in_that_a_newer_one_overtakes_ends_itself(ada, settings, monkeypatch, ended):
    settings.SESSION_LIMIT_PER_USER = 1
    strategy, newer = get_strategy(), []
    real = strategy.swap

    def overtaken(*write):
        monkeypatch.undo()
        newer.append(login_request()(ada).session_key)
        return real(*write)

    monkeypatch.setattr(strategy, "swap", overtaken)
    with pytest.raises(UpdateError):
        login_request()(ada)
    assert [SessionStore(key).get("_auth_user_id") for key in newer] == [str(ada.pk)]
    assert len(sessions_of(ada)) == 1
    assert ended == [(str(ada.pk), "limit")]


def test_a_strategy_that_cannot_find_users_cannot_limit_sessions(settings):
    settings.SESSION_STRATEGY = "tests.test_contract_catches.DictStrategy"
    settings.SESSION_LIMIT_PER_USER = 1
    with pytest.raises(ImproperlyConfigured, match="SESSION_LIMIT_PER_USER"):
        get_strategy()
