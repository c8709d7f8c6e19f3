"""Messages as flash data: none is lost, none comes twice, and a flash of a level's name is one."""

from __future__ import annotations

import pytest
from django.contrib import messages
from django.contrib.messages import constants
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.test import AsyncClient, TestCase, override_settings
from django.urls import path
from django.utils.safestring import mark_safe
from messages_tests.base import BaseTests

from django_strategy_sessions import messages as flash_messages
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.messages import FlashStorage, aget_messages

from .conftest import MEMORY, run_in_loop

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


async def add_async(request):
    messages.info(request, "from a coroutine")
    return HttpResponse("added")


async def show_async(request):
    await aget_messages(request)
    return show(request)


urlpatterns = [
    *(path(f"{view.__name__}/", view) for view in (add, flash, show, untouched)),
    path("async/add/", add_async),
    path("async/show/", show_async),
]


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


# -- messages that no page shows -------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1024 * 1024, 40 * 1024])
def test_messages_that_are_never_shown_make_room_for_newer_ones(
    strategy, middleware, visitor, settings, caplog, limit
):
    """They would pile up to SESSION_MAX_SIZE, and then no request could save anything."""
    settings.SESSION_MAX_SIZE = limit
    flash_messages._log_dropped.cache_clear()
    session = visitor.session
    session["data"] = "x" * (limit // 2)
    session.save()
    size = limit // 64
    for number in range(40):
        assert visitor.get("/add/", {"text": f"{number} {'x' * size}"}).status_code == 200
    assert visitor.session["data"]
    numbers = [int(line.split()[1]) for line in shown(visitor)]
    assert numbers == list(range(40 - len(numbers), 40))
    most = min(limit // 4, 64 * 1024)
    assert most / 2 < len(numbers) * size < most
    dropped = [record for record in caplog.records if record.message.startswith("Dropped")]
    assert len(dropped) == 1
    assert dropped[0].levelname == "WARNING"


def test_the_newest_message_is_kept_whatever_its_size(strategy, visitor):
    visitor.get("/add/", {"text": "short"})
    session = visitor.session
    stored(session, (20, "x" * 100_000))
    assert [len(line) for line in shown(visitor)] == [len("info: ") + 100_000]


# -- async code ------------------------------------------------------------------------------------


@pytest.fixture
def waiting(strategy, settings):
    """A request in an event loop, of a visitor for whom a message waits."""
    session = SessionStore()
    stored(session, (20, "hello"))
    return lambda: prepared(SessionStore(session.session_key))


def prepared(session):
    request = HttpRequest()
    request.session = session
    request._messages = FlashStorage(request)
    return request


def rendered(request):
    page = engines["django"].from_string(TEMPLATE)
    return page.render({"messages": messages.get_messages(request)}).split("\n")


def test_async_code_shows_messages_of_a_session_that_was_loaded(waiting):
    async def view(request):
        await request.session.aget("name")
        return rendered(request)

    assert "info: hello" in run_in_loop(view(waiting()))


def test_async_code_can_await_messages(waiting):
    async def view(request):
        return [str(message) for message in await aget_messages(request)]

    assert run_in_loop(view(waiting())) == ["hello"]


def test_async_code_shows_a_message_to_a_new_visitor(strategy):
    async def view(request):
        messages.success(request, "welcome", fail_silently=False)
        return rendered(request)

    request = prepared(SessionStore())
    request._messages.level = 0
    assert "success: welcome" in run_in_loop(view(request))


def test_async_code_that_must_await_gets_an_error_that_says_so(waiting):
    """On every strategy: over Redis a sync call would hold up the event loop."""

    async def view(request):
        rendered(request)

    with pytest.raises(SynchronousOnlyOperation, match="aget_messages"):
        run_in_loop(view(waiting()))


def test_async_views_add_messages_and_show_them(strategy, settings, middleware):
    settings.ROOT_URLCONF = __name__
    settings.MESSAGE_STORAGE = "django_strategy_sessions.messages.FlashStorage"

    async def visits():
        client = AsyncClient()
        assert (await client.get("/async/add/")).content == b"added"
        return (await client.get("/async/show/")).content.decode()

    assert "info: from a coroutine" in run_in_loop(visits())


def test_a_session_that_knows_no_flash_is_refused():
    request = HttpRequest()
    with pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"):
        FlashStorage(request)
    request.session = {}
    with pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"):
        FlashStorage(request)
