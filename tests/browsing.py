"""The example site and a real browser that visits it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from .servers import free_port

ROOT = Path(__file__).parent.parent
PICTURES = Path(__file__).parent / "screenshots"
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
# The README shows these. TEST_SCREENSHOTS=docs/images renews them.
SHOWN = {"race-desktop-light", "race-phone-dark", "outage-desktop-light"}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="There is no Chromium here. On Debian: apt install chromium"
)


@contextmanager
def example_site(folder, store=""):
    """Its address. It is started by the README's command, on SQLite or the store of that URL.

    What the command says by then is in the file ``said`` in `folder`.
    """
    environment = {
        **os.environ,
        "EXAMPLE_DATABASE": str(folder / "example.sqlite3"),
        "EXAMPLE_STORE": store,
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    log = folder / "requests.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--port", str(free_port())],
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
            said = said_by(server, log)
            deadline.cancel()
            (folder / "said").write_text(said)
            address = re.search(r"Example site: (http://\S+/)", said)[1]
            yield address
        finally:
            deadline.cancel()
            server.terminate()


def said_by(server, log):
    said = ""
    for line in server.stdout:
        said += line
        if line.startswith("Starting "):  # which Django says when it listens
            return said
    raise AssertionError(f"The site did not start:\n{said}{log.read_text()}")


@contextmanager
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def visitor(chromium, expected=r"(?!)", **options):
    """A page on which nothing fails, but for errors in the console as `expected`."""
    context = chromium.new_context(**options)
    page, problems = context.new_page(), []

    def listen(said):
        if said.type == "error":
            problems.append(f"{said.text} {said.location['url']}")

    page.on("console", listen)
    page.on("pageerror", lambda error: problems.append(str(error)))

    def fail(request):
        if request.failure != "net::ERR_ABORTED":  # by a click on to the next page
            problems.append(f"{request.url} {request.failure}")

    page.on("requestfailed", fail)
    yield page
    unexpected = [problem for problem in problems if not re.search(expected, problem)]
    assert not unexpected, unexpected
    context.close()


def look(page, name):
    """On a desktop and a phone, light and dark: nothing scrolls sideways, and axe is content.

    The pictures are for people to look at.
    """
    PICTURES.mkdir(exist_ok=True)
    page.mouse.move(0, 0)  # off whatever was clicked
    page.emulate_media(reduced_motion="reduce")  # or colours would be on their way
    for width, device in ((1280, "desktop"), (390, "phone")):
        page.set_viewport_size({"width": width, "height": 900})
        scroll = page.evaluate("document.documentElement.scrollWidth")
        assert scroll <= width, f"{name} scrolls sideways on a {device}"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            picture = PICTURES / f"{name}-{device}-{scheme}.png"
            page.screenshot(path=picture, full_page=True)
            if "TEST_SCREENSHOTS" in os.environ and picture.stem in SHOWN:
                shown = Path(os.environ["TEST_SCREENSHOTS"], picture.name)
                end = page.locator(".columns").bounding_box()["y"]  # there the explanations begin
                clip = {"x": 0, "y": 0, "width": width, "height": end}
                page.screenshot(path=shown, full_page=True, clip=clip)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{picture.stem}: {found.generate_report()}"
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    page.set_viewport_size({"width": 1280, "height": 900})


def sign_in(page, site, then="/"):
    page.goto(f"{site}sign-in/?next={then}")
    page.get_by_label("Name").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url(site.rstrip("/") + then)


def cookie(page, name="sessionid"):
    return next((one for one in page.context.cookies() if one["name"] == name), None)
