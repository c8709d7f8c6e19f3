"""A Wagtail site as ``wagtail start`` makes it, on a real server; only its sessions are ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest
import requests
from bs4 import BeautifulSoup

from .. import servers
from ..conftest import DATABASE, DJANGOS, OURS, POSTGRES, REDIS

LOCAL_SETTINGS = f"""
import json, os

from .base import DATABASES, INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = [*INSTALLED_APPS, "django_strategy_sessions"]
SESSION_ENGINE = "django_strategy_sessions.engine"
SESSION_STRATEGY = json.loads(os.environ.get("TEST_STRATEGY", "null")) or "{DATABASE}"
MIDDLEWARE[MIDDLEWARE.index("{DJANGOS}")] = os.environ.get("TEST_MIDDLEWARE", "{DJANGOS}")
DATABASES["postgres"] = json.loads(os.environ["TEST_POSTGRES"])
CACHES = json.loads(os.environ["TEST_CACHES"])
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
"""
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "sessions": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": servers.redis_url()},
}
ENVIRONMENT = {
    **os.environ,
    "DJANGO_SETTINGS_MODULE": "blog.settings.dev",
    "DJANGO_SUPERUSER_PASSWORD": "secret",
    "TEST_POSTGRES": json.dumps(servers.database(servers.postgres_url())),
    "TEST_CACHES": json.dumps(CACHES),
}
EDIT = "/admin/pages/3/edit/"  # the home page that the template's own migration makes


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The folder of a new project with its tables and one superuser, ada."""
    folder = tmp_path_factory.mktemp("wagtail")

    def run(*command):
        subprocess.run([sys.executable, *command], cwd=folder, env=ENVIRONMENT, check=True)

    start = "from wagtail.bin.wagtail import main; main()"
    run("-c", start, "start", "blog", ".")
    (folder / "blog/settings/local.py").write_text(LOCAL_SETTINGS)
    run("manage.py", "migrate", "--verbosity=0")
    run("manage.py", "migrate", "--verbosity=0", "--database=postgres", "django_strategy_sessions")
    run("manage.py", "createsuperuser", "--noinput", "--username=ada", "--email=ada@example.com")
    return folder


class Site(servers.Server):
    """The project's own server; ``get`` and ``post`` answer with the page."""

    def __init__(self, project, strategy, middleware):
        super().__init__()
        self.project = project
        chosen = {"TEST_STRATEGY": json.dumps(strategy), "TEST_MIDDLEWARE": middleware}
        self.environment = {**ENVIRONMENT, **chosen}
        self.address = f"http://127.0.0.1:{self.port}"

    def command(self):
        return [sys.executable, "manage.py", "runserver", "--noreload", str(self.port)]

    def identity(self):
        return {"cwd": self.project, "env": self.environment}

    def answers(self):
        with suppress(requests.ConnectionError):
            return requests.get(f"{self.address}/admin/login/").ok
        return False


@pytest.fixture(scope="module", params=[DJANGOS, OURS], ids=["djangos", "ours"])
def middleware(request):
    return request.param


@pytest.fixture(
    scope="module", params=[DATABASE, POSTGRES, REDIS], ids=["database", "postgres", "redis"]
)
def site(request, project, middleware):
    with Site(project, request.param, middleware) as site:
        yield site


class Browser(requests.Session):
    def __init__(self, site):
        super().__init__()
        self.site = site

    def request(self, method, path, **options):
        if path.startswith("/"):
            path = self.site.address + path
        return super().request(method, path, **options)

    def submit(self, page, to=None, **values):
        """Send the page's largest form, with some of its fields changed."""
        forms = BeautifulSoup(self.get(page).text, "html.parser").find_all("form")
        form = max(forms, key=lambda form: len(form.select("input")))
        fields = form.select("input[name], textarea[name], select[name]")
        data = {field["name"]: field.get("value") or "" for field in fields} | values
        response = self.post(to or form.get("action") or page, data=data)
        response.raise_for_status()
        return response


def logged_in(site, **values):
    browser = Browser(site)
    browser.submit("/admin/login/", username="ada", password="secret", **values)
    assert is_logged_in(browser)
    return browser


def is_logged_in(browser):
    return "/admin/login/" not in browser.get("/admin/").url


def test_an_editor_previews_a_change_and_publishes_it(site):
    editor, visitor = logged_in(site), Browser(site)
    title = f"Changed on {site.port}"
    assert editor.submit(EDIT, to=f"{EDIT}preview/", title=title).json()["is_valid"]
    assert title in editor.get(f"{EDIT}preview/").text
    assert title not in visitor.get("/").text
    page = editor.submit(EDIT, title=title, **{"action-publish": "action-publish"})
    assert "has been published" in page.text
    assert "has been published" not in editor.get(EDIT).text
    assert title in visitor.get("/").text


def test_a_logout_ends_the_session_for_every_copy_of_its_cookie(site):
    browser, copy = logged_in(site), Browser(site)
    copy.cookies.update(browser.cookies)
    assert is_logged_in(copy)
    browser.post("/admin/logout/", {"csrfmiddlewaretoken": browser.cookies["csrftoken"]})
    assert "sessionid" not in browser.cookies
    assert not is_logged_in(copy)


def test_remember_me_keeps_the_cookie_when_the_browser_is_closed(site):
    def expires(browser):
        return next(cookie.expires for cookie in browser.cookies if cookie.name == "sessionid")

    assert expires(logged_in(site)) is None
    assert expires(logged_in(site, remember="on")) is not None


def test_a_visitor_gives_the_password_of_a_private_page_once(site):
    editor, visitor, other = logged_in(site), Browser(site), Browser(site)
    privacy = "/admin/pages/3/privacy/"
    token = {"csrfmiddlewaretoken": editor.cookies["csrftoken"]}
    editor.post(privacy, {**token, "restriction_type": "password", "password": "sesame"})
    try:
        assert "Password required" in visitor.get("/").text
        visitor.submit("/", password="sesame")
        assert "Password required" not in visitor.get("/").text
        assert "Password required" in other.get("/").text
    finally:
        editor.post(privacy, {**token, "restriction_type": "none"})
