"""A visit to the example site with a real browser: what a visitor sees is what is promised."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parent.parent
PICTURES = Path(__file__).parent / "screenshots"
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="There is no Chromium here. On Debian: apt install chromium"
)


@pytest.fixture
def site(tmp_path):
    """The address of the example site, started by the README's command."""
    environment = {
        **os.environ,
        "EXAMPLE_DATABASE": str(tmp_path / "example.sqlite3"),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    log = tmp_path / "requests.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--port", "8765"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as server,
    ):
        deadline = Timer(60, server.kill)
        deadline.start()
        try:
            address = address_of(server, log)
            deadline.cancel()
            yield address
        finally:
            deadline.cancel()
            server.terminate()


def address_of(server, log):
    said = ""
    for line in server.stdout:
        said += line
        if line.startswith("Starting "):  # which Django says when it listens
            return re.search(r"Example site: (http://\S+/)", said)[1]
    raise AssertionError(f"The site did not start:\n{said}{log.read_text()}")


@contextmanager
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def picture(page, name):
    """Pictures for whoever wants to look: on a desktop and a phone, light and dark."""
    PICTURES.mkdir(exist_ok=True)
    for width, device in ((1280, "desktop"), (390, "phone")):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=PICTURES / f"{name}-{device}-{scheme}.png", full_page=True)
        scroll = page.evaluate("document.documentElement.scrollWidth")
        assert scroll <= width, f"{name} scrolls sideways on a {device}"
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_visit(site):
    with browser() as chromium:
        context = chromium.new_context()
        page = context.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(error))
        page.on("requestfailed", lambda request: problems.append(request.url))

        # Somebody who only looks has no session.
        page.goto(site)
        picture(page, "shop")
        assert "sessionid" not in {cookie["name"] for cookie in context.cookies()}

        page.get_by_label("Add Golden-tip Assam to the cart").click()
        expect(page.get_by_role("status")).to_have_text("Golden-tip Assam is in your cart.")
        picture(page, "notice")
        page.reload()
        expect(page.get_by_role("status")).to_be_empty()  # shown once

        # Signing in keeps the cart, under a new key.
        anonymous = key_of(context)
        page.get_by_role("link", name="Sign in").click()
        picture(page, "sign-in")
        page.get_by_label("Name").fill("demo")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        page.get_by_label("Password").fill("demo")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("button", name="Sign out demo")).to_be_visible()
        assert key_of(context) != anonymous

        # Eight tabs at the same time, three clicks each: all of them count.
        tabs = [context.new_page() for _ in range(8)]
        for tab in tabs:
            tab.goto(site)
        for tab in tabs:
            tab.evaluate(
                """() => {
                    const form = document.querySelector('form[action="/cart/add/sencha/"]');
                    const body = new FormData(form);
                    const add = () => fetch(form.action, {method: "POST", body});
                    window.added = Promise.all([add(), add(), add()]);
                }"""
            )
        for tab in tabs:
            assert tab.evaluate("added.then(all => all.every(one => one.ok))")
            tab.close()
        page.goto(f"{site}cart/")
        expect(page.get_by_label("Quantity of First-flush Sencha")).to_have_value("24")
        expect(page.get_by_label("Quantity of Golden-tip Assam")).to_have_value("1")

        # Changed in place, deep in the cart.
        page.get_by_label("Quantity of Golden-tip Assam").fill("3")
        page.get_by_role("row", name="Assam").get_by_role("button").click()
        expect(page.get_by_label("Quantity of Golden-tip Assam")).to_have_value("3")
        page.get_by_label("A note for the packers").fill("Ring twice, <please> & thank you")
        page.get_by_role("button", name="Keep the note").click()
        expect(page.get_by_label("A note")).to_have_value("Ring twice, <please> & thank you")
        picture(page, "cart")

        page.goto(f"{site}session/")
        expect(page.get_by_role("row", name="_auth_user_id")).to_be_visible()
        expect(page.get_by_role("row", name="cart")).to_contain_text('"quantity": 24')
        expect(page.get_by_text("POST /cart/note/")).to_have_count(0)  # the page after it came last
        expect(page.get_by_text("GET /cart/")).to_be_visible()
        picture(page, "session")

        page.goto(f"{site}admin/django_strategy_sessions/storedsession/")
        expect(page.get_by_role("heading", name="Select session to change")).to_have_count(0)
        expect(page.locator("#result_list tbody tr")).to_have_count(1)
        page.screenshot(path=PICTURES / "admin.png")

        # A logout is final: the cookie that was is worth nothing.
        page.goto(site)
        before = key_of(context)
        page.get_by_role("button", name="Sign out demo").click()
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()
        assert "Sign out" not in page_with(site, before)
        page.goto(f"{site}cart/")
        expect(page.get_by_text("Nothing in it yet")).to_be_visible()
        assert problems == []


def key_of(context):
    return next(cookie["value"] for cookie in context.cookies() if cookie["name"] == "sessionid")


def page_with(address, key):
    with urlopen(Request(address, headers={"Cookie": f"sessionid={key}"})) as response:
        return response.read().decode()
