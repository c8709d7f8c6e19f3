"""A user who is signed in with two real browsers sees both in each, and ends their sessions."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.translation import gettext
from playwright.sync_api import expect

from django_strategy_sessions import UserSession
from django_strategy_sessions.sign_ins import SignIn

from .browsing import (
    ROOT,
    browser,
    cookie,
    example_site,
    look,
    needs_chromium,
    sign_in,
    visitor,
)
from .servers import free_port

pytestmark = needs_chromium

PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1"
)


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


SERVE = """
import sys, uvicorn
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from example_project.asgi import application
uvicorn.run(ASGIStaticFilesHandler(application), port=int(sys.argv[1]))
"""


@contextmanager
def on_wsgi(folder):
    with example_site(folder) as address:
        yield address


@contextmanager
def on_asgi(folder):
    """The same site on uvicorn, beside the one of `example_site`, which makes the database."""
    with example_site(folder):
        port = free_port()
        environment = {
            **os.environ,
            "EXAMPLE_DATABASE": str(folder / "example.sqlite3"),
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
        }
        command = [sys.executable, "-c", SERVE, str(port)]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        ) as server:
            try:
                for line in server.stderr:
                    if "running on" in line:
                        break
                else:
                    raise AssertionError("The site did not start.")
                yield f"http://127.0.0.1:{port}/"
            finally:
                server.terminate()


@pytest.fixture(scope="module", params=[on_wsgi, on_asgi], ids=["wsgi", "asgi"])
def site(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp("site")) as address:
        yield address


@pytest.fixture
def laptop(site, chromium):
    with visitor(chromium, "favicon.ico") as page:
        sign_in(page, site)
        yield page


@pytest.fixture
def phone(site, chromium, laptop):
    with visitor(chromium, "favicon.ico", user_agent=PHONE) as page:
        sign_in(page, site)
        yield page


def test_a_user_ends_the_session_of_a_phone_that_was_lost(site, laptop, phone):
    laptop.get_by_role("navigation").get_by_role("link", name="Devices").click()
    expect(laptop).to_have_title("Where you are signed in · Leaf & Kettle")
    entries = laptop.get_by_role("listitem")
    expect(entries.nth(0)).to_contain_text("This device")
    expect(entries.nth(0)).to_contain_text("127.0.0.1")
    expect(entries.filter(has_text="Mobile Safari on iOS")).to_have_count(1)
    stolen = cookie(phone)["value"]

    laptop.get_by_role("button", name="Sign out Mobile Safari on iOS").click()
    expect(laptop.get_by_role("status")).to_have_text("That session has ended.")
    expect(entries).to_have_count(1)
    expect(laptop.get_by_role("button", name="Sign out everywhere else")).to_have_count(0)

    phone.goto(f"{site}cart/")
    expect(phone.get_by_role("link", name="Sign in")).to_be_visible()
    phone.context.add_cookies([{"name": "sessionid", "value": stolen, "url": site}])
    phone.goto(f"{site}devices/")
    phone.wait_for_url(f"{site}sign-in/?next=/devices/")
    laptop.reload()
    expect(laptop.get_by_role("button", name="Sign out demo")).to_be_visible()


def test_the_keyboard_is_enough(site, laptop, phone):
    laptop.goto(f"{site}devices/")
    everywhere_else = laptop.get_by_role("button", name="Sign out everywhere else")
    for _ in range(30):
        laptop.keyboard.press("Tab")
        if everywhere_else.evaluate("button => button === document.activeElement"):
            break
    expect(everywhere_else).to_be_focused()
    laptop.keyboard.press("Enter")
    expect(laptop.get_by_role("status")).to_have_text("All other sessions have ended.")
    phone.goto(f"{site}devices/")
    phone.wait_for_url(f"{site}sign-in/?next=/devices/")


def test_the_button_of_this_device_is_a_logout(site, laptop, phone):
    phone.goto(f"{site}devices/")
    phone.get_by_role("listitem").filter(has_text="This device").get_by_role("button").click()
    expect(phone.get_by_role("link", name="Sign in")).to_be_visible()
    laptop.reload()
    expect(laptop.get_by_role("button", name="Sign out demo")).to_be_visible()


def test_the_page_needs_no_script(site, chromium, phone):
    with visitor(chromium, "favicon.ico", java_script_enabled=False) as page:
        sign_in(page, site, then="/devices/")
        page.get_by_role("button", name="Sign out Mobile Safari on iOS").first.click()
        expect(page.get_by_role("status")).to_have_text("That session has ended.")
    phone.goto(f"{site}devices/")
    phone.wait_for_url(f"{site}sign-in/?next=/devices/")


@pytest.mark.parametrize("site", [on_wsgi], ids=["wsgi"], indirect=True)
def test_the_page_of_the_example_site_looks_right(site, laptop, phone):
    laptop.goto(f"{site}devices/")
    look(laptop, "devices")
    laptop.get_by_role("button", name="Sign out everywhere else").click()
    look(laptop, "devices-ended")


@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_the_page_of_the_package_looks_right(chromium, language):
    now = datetime(2026, 11, 27, 12, 30, tzinfo=UTC)
    until = now + timedelta(weeks=2)
    signed_in = SignIn(now, PHONE, "2001:db8:85a3:8d3:1319:8a2e:370:7348")
    unknown = SignIn(now, "x" * 512, "203.0.113.7")
    context = {
        "csrf_token": "of no use",
        "sessions": [
            UserSession("a" * 32, now, until, True, False, signed_in),
            UserSession("b" * 32, now, until, False, False, unknown),
            UserSession("c" * 32, now, until, False, True, None),
        ],
    }
    with translation.override(language):
        context["messages"] = [gettext("That session has ended.")]
        html = render_to_string("django_strategy_sessions/sessions.html", context)
    with visitor(chromium) as page:
        page.set_content(html)
        look(page, f"sessions-{language}")
