"""The example site's race and its outage in a real browser: what they show is what is so."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pytest
from playwright.sync_api import expect

from .browsing import browser, cookie, example_site, look, needs_chromium, sign_in, visitor
from .servers import Postgres, Valkey

pytestmark = needs_chromium

EVERYTHING = list(range(1, 21))
STORES = {
    "SQLite": nullcontext,
    "PostgreSQL": Postgres,
    "Valkey": Valkey,
}
DJANGOS = "Django\N{RIGHT SINGLE QUOTATION MARK}s engine"
DOWN = "status of 503"  # the browser logs each


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """On SQLite."""
    with example_site(tmp_path_factory.mktemp("site")) as address:
        yield address


def finish(page):
    """Wait for the end of a race; what is drawn as kept, of Django's side and of ours."""
    expect(page.get_by_role("status")).to_contain_text("Ours kept", timeout=60_000)
    return drawn(page, DJANGOS), drawn(page, "Ours")


def drawn(page, title):
    lane = page.get_by_role("region", name=title)
    cells = [cell.split() for cell in lane.get_by_role("listitem").all_inner_texts()]
    assert [int(number) for number, _ in cells] == EVERYTHING
    assert {state for _, state in cells} <= {"kept", "lost"}
    kept = [int(number) for number, state in cells if state == "kept"]
    expect(lane.get_by_text("of 20")).to_have_text(f"{len(kept)} of 20 kept")
    lost = f"{20 - len(kept)} requests were answered without an error"
    expect(lane.get_by_text("without an error")).to_contain_text(
        lost if len(kept) < 20 else "is in"
    )
    return kept


def watch_the_store(page, site):
    """By side: the cookies, and what another request finds, just before the page tidies up."""
    found = {}

    def look(route):
        side = "ours" if "/ours/" in route.request.url else "django"
        kept = page.request.get(f"{site}race/{side}/kept/").json()["kept"]
        found[side] = kept, cookie(page, "sessionid" if side == "ours" else "djangos_sessionid")
        route.continue_()

    page.route("**/tidy/", look)
    return found


@pytest.mark.parametrize("store", STORES)
def test_a_race_is_drawn_as_it_is_stored_and_ours_loses_nothing(store, tmp_path, chromium):
    with (
        STORES[store]() as server,
        example_site(tmp_path, server.url.replace("redis:", "valkey:") if server else "") as site,
        visitor(chromium) as page,
    ):
        assert f"Sessions are kept in {store}" in (tmp_path / "said").read_text()
        found = watch_the_store(page, site)
        page.goto(f"{site}race/")
        expect(page.get_by_text("The views, the wait and the store")).to_contain_text(store)
        page.get_by_role("button", name="Start the race").click()
        djangos, ours = finish(page)
        assert ours == found["ours"][0] == EVERYTHING
        assert djangos == found["django"][0]
        expect(page.get_by_role("status")).to_have_text(
            f"{DJANGOS} kept {len(djangos)} of 20 writes. Ours kept 20 of 20 writes."
        )
        if store == "SQLite":
            look(page, "race")

        # Again: what the first race kept does not count.
        page.get_by_role("button", name="Race again").click()
        expect(page.get_by_role("status")).to_contain_text("under way")
        djangos, ours = finish(page)
        assert ours == found["ours"][0] == EVERYTHING
        assert djangos == found["django"][0]


def test_each_side_of_the_race_has_the_cookie_of_its_middleware(site, chromium):
    with visitor(chromium) as page:
        found = watch_the_store(page, site)
        page.goto(f"{site}race/")
        looked = page.request.get(f"{site}race/django/kept/")
        assert "set-cookie" not in looked.headers
        assert cookie(page) is None
        page.get_by_role("button", name="Start the race").click()
        finish(page)
        djangos, ours = found["django"][1], found["ours"][1]
        assert re.fullmatch("[a-z0-9]{32}", djangos["value"])
        assert re.fullmatch(r"[\w-]{22}\.[\w-]{17}", ours["value"])
        for name in ("path", "httpOnly", "secure", "sameSite"):
            assert djangos[name] == ours[name]
        assert abs(djangos["expires"] - ours["expires"]) < 60


def test_the_race_leaves_no_session_where_there_was_none(site, chromium):
    with visitor(chromium) as page:
        page.goto(f"{site}race/")
        page.get_by_role("button", name="Start the race").click()
        finish(page)
        assert page.context.cookies() == [cookie(page, "csrftoken")]


def test_the_race_leaves_a_session_as_it_was(site, chromium):
    with visitor(chromium) as page:
        page.goto(site)
        page.get_by_label("Add Golden-tip Assam to the cart").click()
        sign_in(page, site, then="/race/")
        before = cookie(page)["value"]
        page.get_by_role("button", name="Start the race").click()
        finish(page)
        assert cookie(page)["value"] == before
        page.goto(f"{site}session/")
        expect(page.get_by_role("row", name="cart")).to_be_visible()
        expect(page.get_by_role("row", name="race")).to_have_count(0)


def test_without_scripts_the_race_says_why_it_cannot_run(site, chromium):
    with visitor(chromium, java_script_enabled=False) as page:
        page.goto(f"{site}race/")
        expect(page.get_by_role("button", name="Start the race")).to_have_count(0)
        expect(page.get_by_text("needs JavaScript")).to_be_visible()


def test_an_outage_changes_nothing_for_a_signed_in_user(site, chromium):
    with visitor(chromium, DOWN) as page:
        page.goto(site)
        page.get_by_label("Add Golden-tip Assam to the cart").click()
        sign_in(page, site, then="/outage/")
        said, rows = page.get_by_role("status"), page.locator("#log tbody tr")
        expect(rows).to_have_count(1)
        before = cookie(page)

        page.get_by_role("button", name="Switch the store off").click()
        expect(said).to_have_text(
            "The store is down. The cart answers 503, brewing answers 200. Your cookie is the same."
        )
        look(page, "outage-down")
        for path in ("cart/", "session/", "sign-in/", "admin/", ""):
            answer = page.goto(site + path)
            assert (answer.status, answer.headers["retry-after"]) == (503, "10")
            assert "set-cookie" not in answer.headers
            expect(page.get_by_role("heading", name="Back soon")).to_be_visible()
        look(page, "503")
        assert page.goto(f"{site}brewing/").status == 200
        expect(page.get_by_role("navigation")).to_contain_text("Signed in? Unknown right now")
        look(page, "brewing-down")
        assert cookie(page) == before

        # The race needs both sides, and says so.
        page.goto(f"{site}race/")
        page.get_by_role("button", name="Start the race").click()
        expect(page.get_by_role("status")).to_have_text("The race stopped. The site answered 503.")

        page.goto(f"{site}outage/")
        expect(rows).to_have_count(1)
        page.get_by_role("button", name="Switch the store on again").click()
        expect(said).to_have_text(
            "The store answers again. You are signed in as demo. Your cookie is the same."
        )
        assert cookie(page) == before
        page.goto(f"{site}cart/")
        expect(page.get_by_role("button", name="Sign out demo")).to_be_visible()
        expect(page.get_by_label("Quantity of Golden-tip Assam", exact=True)).to_have_value("1")


def test_one_page_shows_the_whole_outage(site, chromium):
    with visitor(chromium, DOWN) as page:
        sign_in(page, site, then="/outage/")
        rows = page.locator("#log tbody tr")
        expect(rows).to_have_count(1)
        page.get_by_role("button", name="Switch the store off").click()
        expect(rows).to_have_count(2)
        page.get_by_role("button", name="Switch the store on again").click()
        expect(page.get_by_role("status")).to_contain_text("You are still signed in as demo.")
        cells = [row.get_by_role("cell").all_inner_texts() for row in rows.all()]
        fingerprint = cells[0][-1]
        assert cells == [
            ["on", "200", "200", "demo", fingerprint],
            ["off", "503", "200", "503", fingerprint],
            ["on", "200", "200", "demo", fingerprint],
        ]
        look(page, "outage")


def test_a_logout_during_an_outage_is_no_logout(site, chromium):
    with visitor(chromium, DOWN) as page:
        sign_in(page, site)
        outage = page.context.new_page()
        outage.goto(f"{site}outage/")
        outage.get_by_role("button", name="Switch the store off").click()
        expect(outage.get_by_role("status")).to_contain_text("The store is down.")
        before = cookie(page)
        page.get_by_role("button", name="Sign out demo").click()
        expect(page.get_by_role("heading", name="Back soon")).to_be_visible()
        outage.get_by_role("button", name="Switch the store on again").click()
        expect(outage.get_by_role("status")).to_contain_text("still signed in as demo")
        assert cookie(page) == before


def test_a_page_elsewhere_cannot_turn_the_switch(site, chromium):
    with visitor(chromium) as page:
        page.goto(f"{site}outage/")
        forged = page.request.post(f"{site}outage/turn/", form={"store": "off"})
        assert forged.status == 403
        assert page.request.get(f"{site}outage/cookie/").json()["off"] is False


def test_the_switch_needs_no_script(site, chromium):
    with visitor(chromium, java_script_enabled=False) as page:
        page.goto(f"{site}outage/")
        page.get_by_role("button", name="Switch the store off").click()
        expect(page.get_by_text("does not answer")).to_be_visible()
        page.get_by_role("button", name="Switch the store on again").click()
        expect(page.get_by_role("button", name="Switch the store off")).to_be_visible()


def focused(page):
    """The name of what has the focus, which is to be seen."""
    seen = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    name = page.evaluate("document.activeElement.innerText.trim()")
    assert seen != "none", f"{name!r} does not show its focus"
    return name


def test_the_keyboard_is_enough(site, chromium):
    with visitor(chromium, DOWN) as page:
        page.goto(f"{site}race/")
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert focused(page) == "Start the race"
        page.keyboard.press("Enter")
        assert finish(page)[1] == EVERYTHING
        assert focused(page) == "Race again"  # where it was

        for name in ("Sign in", "Cart", "Outage", "Race", "Session", "Brewing", "Teas"):
            page.keyboard.press("Shift+Tab")
            assert focused(page) == name
        for _ in range(4):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{site}outage/")
        expect(page.locator("#log tbody tr")).to_have_count(1)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert focused(page) == "Switch the store off"
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("The store is down.")
        assert focused(page) == "Switch the store on again"
        page.keyboard.press("Space")
        expect(page.get_by_role("status")).to_contain_text("The store answers again.")


@pytest.mark.parametrize(("wish", "moving"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_visitors_who_prefer_reduced_motion(wish, moving, site, chromium):
    with visitor(chromium, reduced_motion=wish) as page:
        page.goto(f"{site}race/")
        styles = page.evaluate(
            """[...document.querySelectorAll("*")].map(each => getComputedStyle(each)).map(
                style => [style.transitionDuration, style.animationName])"""
        )
        assert any(style != ["0s", "none"] for style in styles) == moving
