"""Messages as flash data: none is lost, none comes twice, and a flash of a level's name is one."""

from __future__ import annotations

import pytest
from django.contrib import messages
from django.contrib.messages import constants
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.test import TestCase, override_settings
from django.urls import path
from django.utils.safestring import mark_safe
from messages_tests.base import BaseTests

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.messages import FlashStorage

from .conftest import MEMORY

TEMPLATE = """{% for message in messages %}
{{ message.tags }}: {{ message }}
{% endfor %}"""


@override_settings(SESSION_STRATEGY=MEMORY)
class DjangosTests(BaseTests, TestCase):
    """Unchanged; what differs between storages is how their tests look into them."""

    storage_class = FlashStorage

    def get_request(self):
        request = super().get_request()
        request.session = SessionStore()
        return request

    def stored_messages_count(self, storage, response):
        return len(storage.request.session.keys())

    def test_get(self):
        storage = self.storage_class(self.get_request())
        stored(storage.request.session, (20, "test"), (30, "me"))
        assert [(each.level, each.message) for each in storage] == [(20, "test"), (30, "me")]


def add(request):
    for text in request.GET.getlist("text"):
        messages.info(request, text)
    return HttpResponse("added")


def flash(request):
    request.session.flash(request.GET["name"], request.GET["text"])
    return HttpResponse("flashed")


def show(request):
    page = engines["django"].from_string(TEMPLATE * int(request.GET.get("times", 1)))
    return HttpResponse(
        page.render(request=request).encode(), status=request.GET.get("status", 200)
    )


def untouched(request):
    return HttpResponse("untouched")


urlpatterns = [path(f"{view.__name__}/", view) for view in (add, flash, show, untouched)]


@pytest.fixture
def visitor(settings, client):
    settings.ROOT_URLCONF = __name__
    settings.MESSAGE_STORAGE = "django_strategy_sessions.messages.FlashStorage"
    return client


def shown(visitor, **query):
    lines = visitor.get("/show/", query).content.decode().splitlines()
    return [line for line in lines if line]


def test_messages_are_shown_once_and_in_order(strategy, middleware, visitor):
    visitor.get("/add/", {"text": ["one", "two"]})
    visitor.get("/add/", {"text": ["three"]})
    visitor.get("/untouched/")
    assert shown(visitor, times=2) == ["info: one", "info: two", "info: three"] * 2
    assert shown(visitor) == []


def test_a_response_that_failed_takes_no_message(strategy, middleware, visitor):
    visitor.get("/add/", {"text": "one"})
    assert shown(visitor, status=500) == ["info: one"]
    assert shown(visitor) == ["info: one"]


def test_a_flash_named_like_a_level_is_a_message(strategy, visitor):
    visitor.get("/flash/", {"name": "error", "text": "That did not work."})
    visitor.get("/flash/", {"name": "other", "text": "for somebody else"})
    assert shown(visitor) == ["error: That did not work."]
    assert shown(visitor) == []
    assert visitor.session["other"] == "for somebody else"


@pytest.mark.parametrize(("name", "lines"), [("danger", ["danger: no"]), ("error", [])])
def test_levels_go_by_the_projects_own_tags(visitor, settings, strategy, name, lines):
    with override_settings(MESSAGE_TAGS={constants.ERROR: "danger"}):
        visitor.get("/flash/", {"name": name, "text": "no"})
        assert shown(visitor) == lines


def stored(session, *added):
    request = HttpRequest()
    request.session = session
    storage = FlashStorage(request)
    for level, text, *tags in added:
        storage.add(level, text, *tags)
    storage.update(HttpResponse())
    session.save()


def loaded(session_key):
    request = HttpRequest()
    request.session = SessionStore(session_key)
    return FlashStorage(request)


def test_tags_and_safe_texts_survive(strategy):
    session = SessionStore()
    stored(session, (25, mark_safe("<b>safe</b>"), "big blue"), (30, "<b>not</b>"))
    one, other = loaded(session.session_key)
    assert (one.message, one.tags, one.level) == ("<b>safe</b>", "big blue success", 25)
    assert hasattr(one.message, "__html__")
    assert not hasattr(other.message, "__html__")


def test_messages_of_concurrent_requests_all_survive(strategy):
    first = SessionStore()
    first["name"] = "value"
    first.save()
    others = [SessionStore(first.session_key) for _ in range(3)]
    for session in others:
        session["name"]  # loaded before any of them saves
    for number, session in enumerate(others):
        stored(session, (20, f"{number}a"), (20, f"{number}b"))
    texts = [str(message) for message in loaded(first.session_key)]
    assert texts == ["0a", "0b", "1a", "1b", "2a", "2b"]


def test_showing_messages_leaves_those_that_came_meanwhile(strategy):
    session = SessionStore()
    stored(session, (20, "old"))
    reader = loaded(session.session_key)
    assert [str(message) for message in reader] == ["old"]
    writer = SessionStore(session.session_key)
    writer.flash("error", "new")
    stored(writer, (20, "newer"))
    reader.update(HttpResponse())
    reader.request.session.save()
    assert [str(message) for message in loaded(session.session_key)] == ["newer", "new"]


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_showing_a_flash_leaves_one_that_came_meanwhile(strategy, first):
    session = SessionStore()
    session.flash("error", "old")
    session.save()
    reader, writer = loaded(session.session_key), SessionStore(session.session_key)
    assert [str(message) for message in reader] == ["old"]
    reader.update(HttpResponse())
    writer.flash("error", "new")
    for each in (reader.request.session, writer)[:: 1 if first == "reader" else -1]:
        each.save()
    assert [str(message) for message in loaded(session.session_key)] == ["new"]


def test_a_flash_that_is_set_after_it_was_shown_is_a_new_one(strategy):
    session = SessionStore()
    session.flash("error", "one")
    session.save()
    storage = loaded(session.session_key)
    assert [str(message) for message in storage] == ["one"]
    storage.request.session.flash("error", "two")
    storage.update(HttpResponse())
    storage.request.session.save()
    assert [str(message) for message in loaded(session.session_key)] == ["two"]


def test_what_was_iterated_but_not_used_stays(strategy):
    session = SessionStore()
    stored(session, (20, "old"))
    storage = loaded(session.session_key)
    storage.add(20, "new")
    assert len(list(storage)) == 2
    storage.used = False
    storage.update(HttpResponse())
    storage.request.session.save()
    assert [str(message) for message in loaded(session.session_key)] == ["old", "new"]


def test_levels_that_share_a_tag_show_a_flash_once(strategy, visitor):
    with override_settings(MESSAGE_TAGS={constants.DEBUG: "info"}):
        visitor.get("/flash/", {"name": "info", "text": "hello"})
        assert shown(visitor) == ["info: hello"]


def test_a_flash_below_the_level_of_the_request_waits(strategy, visitor):
    visitor.get("/flash/", {"name": "debug", "text": "details"})
    assert shown(visitor) == []
    with override_settings(MESSAGE_LEVEL=constants.DEBUG):
        assert shown(visitor) == ["debug: details"]


def test_names_that_look_like_messages_are_flashes_of_their_own(strategy, visitor):
    visitor.get("/flash/", {"name": "message.sent", "text": "yes"})
    assert shown(visitor) == []
    assert visitor.session["message.sent"] == "yes"


def test_a_session_that_knows_no_flash_is_refused():
    request = HttpRequest()
    with pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"):
        FlashStorage(request)
    request.session = {}
    with pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"):
        FlashStorage(request)
