"""A visit to the example site with a real browser: what a visitor sees is what is promised."""

from __future__ import annotations

from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import expect

from .browsing import (
    PICTURES,
    browser,
    cookie,
    example_site,
    look,
    needs_chromium,
    sign_in,
    visitor,
)

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory):
    with example_site(tmp_path_factory.mktemp("site")) as address:
        yield address


@pytest.fixture
def site(tmp_path):
    with example_site(tmp_path) as address:
        yield address


def test_a_visit(site, chromium):
    with visitor(chromium, "favicon.ico") as page:
        # A visitor who only looks at pages has no session.
        page.goto(site)
        look(page, "shop")
        assert cookie(page) is None

        page.get_by_label("Add Golden-tip Assam to the cart").click()
        expect(page.get_by_role("status")).to_have_text("Golden-tip Assam is in your cart.")
        look(page, "notice")
        page.reload()
        expect(page.get_by_role("status")).to_be_empty()  # shown once

        # Signing in keeps the cart, under a new key.
        anonymous = cookie(page)["value"]
        page.get_by_role("link", name="Sign in").click()
        look(page, "sign-in")
        page.get_by_label("Name").fill("demo")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        page.get_by_label("Password").fill("demo")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("button", name="Sign out demo")).to_be_visible()
        assert cookie(page)["value"] != anonymous

        # Eight tabs at the same time, three clicks each: all of them count.
        tabs = [page.context.new_page() for _ in range(8)]
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
        expect(page.get_by_label("Quantity of First-flush Sencha", exact=True)).to_have_value("24")
        expect(page.get_by_label("Quantity of Golden-tip Assam", exact=True)).to_have_value("1")

        # Changed in place, deep in the cart.
        page.get_by_label("Quantity of Golden-tip Assam", exact=True).fill("3")
        page.get_by_role("button", name="Update the quantity of Golden-tip Assam").click()
        expect(page.get_by_label("Quantity of Golden-tip Assam", exact=True)).to_have_value("3")
        expect(page.get_by_role("link", name="Cart 27 in it")).to_be_visible()
        page.get_by_role("button", name="Remove First-flush Sencha").click()
        expect(page.get_by_role("status")).to_have_text(
            "First-flush Sencha is no longer in your cart."
        )
        expect(page.get_by_role("link", name="Cart 3 in it")).to_be_visible()
        page.get_by_label("A note for the packers").fill("Ring twice, <please> & thank you")
        page.get_by_role("button", name="Keep the note").click()
        expect(page.get_by_label("A note")).to_have_value("Ring twice, <please> & thank you")
        look(page, "cart")

        page.goto(f"{site}session/")
        expect(page.get_by_role("row", name="_auth_user_id")).to_be_visible()
        expect(page.get_by_role("row", name="cart")).to_contain_text('"quantity": 3')
        expect(page.get_by_text("POST /cart/note/")).to_have_count(0)  # the page after it came last
        expect(page.get_by_text("GET /cart/")).to_be_visible()
        look(page, "session")

        page.goto(f"{site}admin/django_strategy_sessions/storedsession/")
        expect(page.get_by_role("heading", name="Select session to change")).to_have_count(0)
        expect(page.locator("#result_list tbody tr")).to_have_count(1)
        page.screenshot(path=PICTURES / "admin.png")

        # A logout is final: the cookie that was is worth nothing.
        page.goto(site)
        before = cookie(page)["value"]
        page.get_by_role("button", name="Sign out demo").click()
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()
        assert "Sign out" not in page_with(site, before)
        page.goto(f"{site}cart/")
        expect(page.get_by_text("Nothing in it yet")).to_be_visible()
        page.goto(f"{site}brewing/")
        look(page, "brewing")


def test_every_page_shows_the_signed_in_user_and_the_size_of_the_cart(shared_site, chromium):
    paths = ["", "brewing/", "cart/", "session/", "race/", "outage/", "docs/", "no/such/page/"]
    with visitor(chromium, "status of 404|favicon.ico") as page:
        navigation = page.get_by_role("navigation")
        for path in paths:
            page.goto(shared_site + path)
            expect(navigation.get_by_role("link", name="Sign in")).to_be_visible()
        page.goto(shared_site)
        page.get_by_label("Add Golden-tip Assam to the cart").click()
        sign_in(page, shared_site)
        for path in paths:
            page.goto(shared_site + path)
            expect(navigation.get_by_role("button", name="Sign out demo")).to_be_visible()
            expect(navigation.get_by_role("link", name="Cart 1 in it")).to_be_visible()


def test_the_first_page_leads_to_docs_and_source(shared_site, chromium):
    with visitor(chromium, "favicon.ico") as page:
        page.goto(shared_site)
        expect(page.get_by_role("main")).to_contain_text("the example site of")
        page.get_by_role("link", name="docs and the source").click()
        look(page, "docs")
        page.get_by_role("link", name="Getting started").click()
        expect(page.get_by_text("pip install")).to_be_visible()
        outside = page.request.get(f"{shared_site}docs/pyproject.toml")
        assert outside.status == 404


def page_with(address, key):
    with urlopen(Request(address, headers={"Cookie": f"sessionid={key}"})) as response:
        return response.read().decode()
