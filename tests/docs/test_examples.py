"""What the functions do that the pages show."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from types import ModuleType

import psycopg
import pytest
import redis
from asgiref.sync import async_to_sync
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.test import RequestFactory, override_settings
from django.urls import path

from django_strategy_sessions import Cookie, Session, sessions_of
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.messages import FlashStorage
from django_strategy_sessions.testing import StrategyContract

from .. import servers
from ..conftest import MEMORY, is_signed_in, run_in_loop, sign_in
from .pages import DOCS, ROOT, blocks, names_of, python, received, rows, run


@pytest.fixture
def post():
    """A request to a page's view, with the session of `key`."""

    def make(key=None, cookies="", **data):
        request = RequestFactory().post("/", data, headers={"Cookie": cookies})
        request.session = SessionStore(key)
        return request

    return make


def sent_back(response):
    """The cookies of a response, as a browser returns them."""
    return "; ".join(f"{name}={morsel.value}" for name, morsel in response.cookies.items())


@pytest.mark.django_db
def test_getting_started_what_its_views_change_is_kept_and_the_notice_shown_once(post):
    views = names_of("getting-started.md")
    key = None
    for tea in ("Assam", "Sencha"):
        request = post(key)
        views["add"](request, tea)
        request.session.save()
        key = request.session.session_key
    assert SessionStore(key)["clicks"] == 2
    for shown in (b"Sencha is in your cart.", b""):
        request = post(key)
        assert views["cart"](request).content == shown + b"\nAssam\nSencha"
        request.session.save()


@pytest.mark.django_db
def test_flash_a_notice_waits_for_the_request_that_reads_it_and_is_gone_with_its_save(post):
    views = names_of("flash-and-messages.md")
    request = post()
    views["save"](request)
    request.session.save()
    key = request.session.session_key
    assert views["home"](post(key)).content == b"Saved."  # not saved: a response that failed
    request = post(key)
    assert [views["home"](request).content for _ in range(2)] == [b"Saved."] * 2
    request.session.save()
    assert views["home"](post(key)).content == b""


@pytest.mark.django_db
def test_flash_the_table_of_what_does_what(post):
    session = post().session
    for name in ("get", "in", "pop", "del"):
        session.flash(name, 1)
    assert session.get("get") == session["get"] == 1
    assert "in" in session
    assert {*session.keys()} == {"__flash_in__", "__flash_pop__", "__flash_del__"}
    assert (session.pop("pop"), session.get("pop")) == (1, None)
    with pytest.raises(KeyError):
        del session["del"]
    assert session.get("del") == 1


@pytest.mark.django_db
def test_flash_one_that_is_named_like_a_level_is_a_message(post):
    request = post()
    names_of("flash-and-messages.md")["delete"](request)
    (message,) = FlashStorage(request)
    assert (message.level_tag, message.message) == ("error", "That did not work.")


@pytest.mark.django_db
def test_typed_data_the_typed_session_is_the_requests_own(post):
    page = names_of("typed-data.md")
    request = post()
    assert page["add"](request).content == b"tea"
    assert (request.session["cart"], request.session["role"]) == (["tea"], "guest")
    response = page["sign_in"](post())
    greeted = page["greet"](post(cookies=sent_back(response)))
    assert greeted.content == b"Welcome."
    assert page["greet"](post(cookies=sent_back(response))).content == b""


@pytest.mark.django_db
def test_storages_a_cart_lives_until_it_is_emptied_and_beside_the_requests_session(post):
    page = names_of("storages.md")
    cookies = sent_back(page["add"](post(item="tea")))
    response = page["add"](post(cookies=cookies, item="cup"))
    assert response.headers["Vary"] == "Cookie"
    assert page["carts"].get_session(cookies).get("items") == ["tea", "cup"]
    request = post(cookies=cookies)
    assert request.session.get("items") is None
    page["empty"](request)
    assert page["carts"].get_session(cookies).id == ""


@pytest.mark.django_db
def test_storages_headers_are_enough():
    visit = names_of("storages.md")["visit"]
    visits, set_cookie = visit(None)
    assert visits == 1
    assert visit(set_cookie.partition(";")[0])[0] == 2


@pytest.mark.django_db
def test_storages_a_sign_in_ends_the_id_that_was_there_before(post):
    page = names_of("storages.md")
    planted = sent_back(page["add"](post(item="tea")))
    cookies = sent_back(page["sign_in"](post(cookies=planted, customer="ada")))
    assert page["carts"].get_session(planted).id == ""
    session = page["carts"].get_session(cookies)
    assert session.data == {"items": ["tea"], "customer": "ada"}


def test_storages_four_functions_serve_sync_and_async_callers():
    notes = names_of("storages.md")["notes"]
    session = Session({"a": 1})
    cookie = notes.commit_session(session)
    assert "Path=/notes/" in cookie
    again = async_to_sync(notes.aget_session)(cookie.partition(";")[0])
    assert again.data == {"a": 1}
    notes.destroy_session(again)
    assert notes.get_session(cookie.partition(";")[0]).id == ""


@pytest.mark.django_db
def test_storages_one_of_another_store_is_cleared_by_its_own_strategy():
    page = names_of("storages.md")
    session = Session({"a": 1})
    page["carts"].commit_session(session, max_age=-1)
    assert page["clear"]() == 1


COUNT = """
import sys
from django.conf import settings
settings.configure(SECRET_KEY="k" * 32)
from datetime import UTC, datetime, timedelta
from django_strategy_sessions.strategies.base import Apply
from sessions import FolderStrategy

strategy, session_id = FolderStrategy("folder"), sys.argv[1]
for _ in range(50):
    held = strategy.load(session_id)
    data = {**held.data, "count": Apply(lambda count: count + 1)}
    strategy.merge(held, data, datetime.now(UTC) + timedelta(hours=1))
"""


def test_strategies_processes_take_turns_at_the_folder_as_threads_do(tmp_path):
    page = DOCS / "strategies.md"
    code = "".join(block.code for block in python(page) if block.file == "sessions.py")
    (tmp_path / "sessions.py").write_text(code)
    strategy = run(page)["FolderStrategy"](tmp_path / "folder")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with override_settings(SECRET_KEY="k" * 32, SECRET_KEY_FALLBACKS=[]):
        ends = datetime.now(UTC) + timedelta(hours=1)
        session_id = strategy.create_data({"count": 0}, ends)
        command = [sys.executable, "-c", COUNT, session_id]
        counting = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(4)]
        assert [process.wait(60) for process in counting] == [0] * 4
        assert strategy.read_data(session_id) == {"count": 4 * 50}


def test_storages_documents_every_option_of_the_cookie():
    given = {field.name: repr(field.default).replace("'", '"') for field in fields(Cookie)}
    assert {name: default for name, default, _ in rows(DOCS / "storages.md", "The cookie")} == given


def test_async_a_visit_is_counted_in_an_event_loop(settings):
    settings.SESSION_STRATEGY = MEMORY
    visit, request = names_of("async.md")["visit"], RequestFactory().get("/")
    request.session = SessionStore()
    for number in (1, 2):
        assert run_in_loop(visit(request)).content == f"Visit {number}".encode()


@pytest.mark.django_db
def test_sessions_of_a_user_are_shown_and_ended(post):
    page, ada = names_of("sessions-of-a-user.md"), User.objects.create_user("ada")
    phone, desktop, tablet = (sign_in(ada) for _ in range(3))
    request = post(phone.session.session_key)
    request.user = ada
    lines = page["devices"](request).content.decode().splitlines()
    assert ["(this one)" in line for line in lines] == [False, False, True]
    for said in (b"It has ended.", b"It had already ended."):
        assert page["sign_out_of_one"](request, lines[0].split()[0]).content == said
    assert is_signed_in(desktop)
    assert not is_signed_in(tablet)
    assert page["sign_out_everywhere_else"](request).content == b"Ended 1 sessions."
    assert is_signed_in(phone)
    assert not is_signed_in(desktop)


def test_sessions_of_a_user_async_code_ends_them(settings, transactional_db):
    settings.SESSION_STRATEGY = MEMORY
    ada = User.objects.create_user("ada")
    phone, desktop = sign_in(ada), sign_in(ada)
    request = RequestFactory().get("/")
    request.session = SessionStore(phone.session.session_key)

    async def auser():
        return ada

    request.auser = auser
    response = run_in_loop(names_of("sessions-of-a-user.md")["asign_out_everywhere_else"](request))
    assert response.content == b"Ended 1 sessions."
    assert is_signed_in(phone)
    assert not is_signed_in(desktop)


@pytest.mark.django_db
def test_sessions_of_a_user_end_when_the_password_changes(post, settings):
    page, ada = names_of("sessions-of-a-user.md"), User.objects.create_user("ada", password="old")
    phone = sign_in(ada)
    sign_in(ada)
    view = page["EndingPasswordChangeView"].as_view(success_url="/")
    new = {"old_password": "old", "new_password1": "Nq83-Zz1!", "new_password2": "Nq83-Zz1!"}
    request = post(phone.session.session_key, **new)
    request.user, request._dont_enforce_csrf_checks = ada, True
    assert view(request).status_code == 302
    request.session.save()
    (left,) = sessions_of(ada, current=request.session)
    assert left.is_current


@pytest.mark.django_db
def test_sessions_of_a_user_who_is_disabled_or_deleted_end():
    ada, grace = User.objects.create_user("ada"), User.objects.create_user("grace")
    with received("sessions-of-a-user.md", "receivers.py"):
        phone, desktop = sign_in(ada), sign_in(grace)
        ada.is_active = False
        ada.save()
        assert not is_signed_in(phone)
        assert is_signed_in(desktop)
        grace.delete()
        assert not is_signed_in(desktop)


@pytest.mark.django_db
def test_sessions_of_a_user_who_signed_in_long_ago_end_after_another_sign_in(settings, monkeypatch):
    site = ModuleType("careful_urls")
    site.urlpatterns = [
        *names_of("sessions-of-a-user.md")["urlpatterns"],
        path("login/", LoginView.as_view(template_name="admin/login.html")),
        path("admin/", admin.site.urls),
    ]
    monkeypatch.setitem(sys.modules, "careful_urls", site)
    settings.ROOT_URLCONF, settings.LOGIN_URL = "careful_urls", "/login/"
    settings.SESSION_SIGN_INS = True
    ada = User.objects.create_user("ada", password="secret")
    phone, desktop = sign_in(ada), sign_in(ada)
    here = "/account/sessions/"
    session = phone.session
    session["_sign_in"]["at"] = (datetime.now(UTC) - timedelta(minutes=11)).isoformat()
    session.save()
    asked = phone.post(here, {"others": "all"})
    assert asked.headers["Location"] == f"/login/?next={here}"
    assert is_signed_in(desktop)
    form = {"username": "ada", "password": "secret"}
    assert phone.post(asked.headers["Location"], form).headers["Location"] == here
    assert phone.post(here, {"others": "all"}).headers["Location"] == here
    assert is_signed_in(phone)
    assert not is_signed_in(desktop)


@pytest.mark.parametrize(
    ("header", "address"),
    [("203.0.113.7", "203.0.113.7"), ("made up, 203.0.113.7", "203.0.113.7"), ("", None)],
)
def test_sessions_of_a_user_the_address_is_not_one_that_a_client_made_up(header, address):
    find = names_of("sessions-of-a-user.md")["client_address"]
    assert find(RequestFactory().get("/", headers={"X-Forwarded-For": header})) == address


class TestPsycopgStrategy(StrategyContract):
    """The PostgreSQL example of React Router's page, ported."""

    def make_strategy(self):
        return names_of("react-router.md")["PsycopgStrategy"](servers.postgres_url())

    def make_unavailable_strategy(self):
        nowhere = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/postgres"
        return names_of("react-router.md")["PsycopgStrategy"](nowhere)

    @pytest.fixture(autouse=True)
    def a_table(self):
        (sql,) = [b.code for b in blocks(DOCS / "react-router.md") if b.language == "sql"]
        with psycopg.connect(servers.postgres_url(), autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS session")
            connection.execute(sql)
            yield
            connection.execute("DROP TABLE session")


class TestRedisPyStrategy(StrategyContract):
    """The Redis example."""

    def make_strategy(self):
        return names_of("react-router.md")["RedisPyStrategy"](servers.redis_url())

    def make_unavailable_strategy(self):
        nowhere = f"redis://127.0.0.1:{servers.free_port()}/0"
        return names_of("react-router.md")["RedisPyStrategy"](nowhere)


def test_react_router_the_original_sends_redis_an_expiry_that_it_refuses():
    client = names_of("react-router.md")["RedisPyStrategy"](servers.redis_url()).redis
    with pytest.raises(redis.ResponseError, match="invalid expire"):
        client.execute_command("SETEX", "example:any", 0, "{}")
