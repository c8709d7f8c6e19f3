"""django-allauth's `usersessions`: it lists the sessions of a user by their keys, and ends them."""

from __future__ import annotations

import re

import pytest
from allauth.usersessions.models import UserSession
from django.contrib.auth import get_user_model
from django.test import Client

from django_strategy_sessions import StrategyUnavailable, end_sessions, sessions_of
from django_strategy_sessions.engine import SessionStore

pytestmark = pytest.mark.usefixtures("strategy", "middleware")

PASSWORD = "Nq83-Zz1!"


@pytest.fixture
def phone():
    """A browser that has signed up."""
    client = Client(headers={"user-agent": "Phone"})
    form = {"username": "ada", "password1": PASSWORD, "password2": PASSWORD}
    assert client.post("/accounts/signup/", form).status_code == 302
    return client


@pytest.fixture
def laptop(phone):
    """Another, in which the same user logs in."""
    return logged_in(Client(headers={"user-agent": "Laptop"}))


def logged_in(client):
    form = {"login": "ada", "password": PASSWORD}
    assert client.post("/accounts/login/", form).status_code == 302
    return client


def key(client):
    return client.cookies["sessionid"].value


def is_logged_in(client):
    return client.get("/whoami/").content == b"ada"


def listed(client):
    return [row.user_agent for row in client.get("/accounts/sessions/").context["sessions"]]


def test_a_user_sees_each_of_their_sessions(phone, laptop):
    assert listed(phone) == listed(laptop) == ["Phone", "Laptop"]
    keys = UserSession.objects.order_by("pk").values_list("session_key", flat=True)
    assert list(keys) == [key(phone), key(laptop)]


def test_ending_the_other_sessions_logs_them_out_and_keeps_this_one(phone, laptop):
    phone.post("/accounts/sessions/")
    assert is_logged_in(phone)
    assert not is_logged_in(laptop)
    assert listed(phone) == ["Phone"]


def test_the_list_forgets_a_session_that_logged_out(phone, laptop):
    laptop.post("/accounts/logout/")
    assert listed(phone) == ["Phone"]


def test_a_visitor_who_logs_in_is_listed_under_the_new_key_alone(phone):
    visitor = Client(headers={"user-agent": "Tablet"})
    visitor.get("/write/?cart=1")
    before = key(visitor)
    logged_in(visitor)
    assert key(visitor) != before
    assert UserSession.objects.get(user_agent="Tablet").session_key == key(visitor)
    assert visitor.session["cart"] == "1"


def test_a_password_change_keeps_this_session_listed_and_forgets_the_others(phone, laptop):
    before = key(phone)
    form = {"oldpassword": PASSWORD, "password1": "Xw29-Yy7!", "password2": "Xw29-Yy7!"}
    assert phone.post("/accounts/password/change/", form).status_code == 302
    assert key(phone) != before
    assert is_logged_in(phone)
    assert not is_logged_in(laptop)
    assert listed(phone) == ["Phone"]


def test_tracked_activity_finds_the_row_of_the_session_again(phone, settings):
    settings.USERSESSIONS_TRACK_ACTIVITY = True
    first = UserSession.objects.get()
    phone.get("/whoami/", headers={"user-agent": "Phone, updated"})
    row = UserSession.objects.get()
    assert (row.pk, row.user_agent) == (first.pk, "Phone, updated")
    assert row.last_seen_at > first.last_seen_at


def test_an_outage_purges_no_session_from_the_list(phone, settings):
    nowhere = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    settings.CACHES = {**settings.CACHES, "nowhere": nowhere}
    settings.SESSION_STRATEGY = {
        "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",
        "OPTIONS": {"alias": "nowhere"},
    }
    with pytest.raises(StrategyUnavailable):
        UserSession.objects.purge_and_list(get_user_model().objects.get())
    assert UserSession.objects.count() == 1


def test_after_a_change_of_the_secret_key_others_can_be_ended_and_this_one_stays(
    phone, laptop, settings
):
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "a new secret key that is as long as it should be: 0123456789"
    phone.post("/accounts/sessions/")
    assert is_logged_in(phone)
    assert not is_logged_in(laptop)


def test_usersessions_notices_what_our_own_list_ended(phone, laptop):
    ada = get_user_model().objects.get()
    keys = {key(phone), key(laptop)}
    entries = sessions_of(ada, current=SessionStore(key(phone)))
    assert len(entries) == 2
    assert not any(each in repr(entries) for each in keys)
    assert end_sessions(ada, keep=SessionStore(key(phone))) == 1
    assert is_logged_in(phone)
    assert not is_logged_in(laptop)
    assert listed(phone) == ["Phone"]


def test_its_decorator_asks_for_the_password_before_our_page_ends_sessions(phone, laptop, settings):
    settings.ACCOUNT_REAUTHENTICATION_TIMEOUT = 0
    phone.handler.enforce_csrf_checks = True

    def post(path, **form):
        page = phone.get(path).content.decode()
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
        return phone.post(path, {**form, "csrfmiddlewaretoken": token})

    asked = post("/careful/sessions/", others="all")
    assert asked.headers["Location"].startswith("/accounts/reauthenticate/")
    assert is_logged_in(laptop)
    settings.ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
    answered = post(asked.headers["Location"], password=PASSWORD)
    assert answered.headers["Location"] == "/careful/sessions/"
    assert is_logged_in(phone)
    assert not is_logged_in(laptop)
