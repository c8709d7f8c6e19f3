"""A shop whose cart lives in the session: what views do with ``request.session``."""

import json

from django.conf import settings
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.strategies.database import DatabaseStrategy

from .middleware import last_request
from .teas import GRINDS, TEAS


def empty_cart():
    return {"items": {}, "note": ""}


def shop(request):
    return render(request, "shop/shop.html", {"teas": TEAS.values(), "grinds": GRINDS})


@require_POST
def add(request, sku):
    grind = request.POST.get("grind")
    if sku not in TEAS or grind not in GRINDS:
        return redirect("shop")

    def one_more(cart):
        item = cart["items"].setdefault(sku, {"quantity": 0, "options": {}})
        item["quantity"] += 1
        item["options"]["grind"] = grind
        return cart

    # Atomic: of clicks in several tabs at the same time, each one counts.
    request.session.apply("cart", one_more, default=empty_cart())
    request.session.flash("notice", f"{TEAS[sku].name} is in your cart.")
    return redirect("shop")


def cart(request):
    held = request.session.get("cart") or empty_cart()
    lines = [
        {**item, "tea": TEAS[sku], "amount": f"{item['quantity'] * TEAS[sku].price / 100:.2f}"}
        for sku, item in held["items"].items()
        if sku in TEAS
    ]
    total = sum(line["quantity"] * line["tea"].price for line in lines)
    context = {"lines": lines, "note": held["note"], "total": f"{total / 100:.2f}"}
    return render(request, "shop/cart.html", context)


@require_POST
def change(request, sku):
    items = request.session.get("cart", empty_cart())["items"]
    quantity = request.POST.get("quantity", "")
    if sku in items and quantity.isdecimal():
        # Changed in place: no `request.session.modified = True` is needed.
        if 0 < int(quantity) < 100:
            items[sku]["quantity"] = int(quantity)
        elif int(quantity) == 0:
            del items[sku]
        request.session.flash("notice", "Your cart is up to date.")
    return redirect("cart")


@require_POST
def remove(request, sku):
    def without(cart):
        cart["items"].pop(sku, None)
        return cart

    if sku in TEAS:
        request.session.apply("cart", without, default=empty_cart())
        request.session.flash("notice", f"{TEAS[sku].name} is no longer in your cart.")
    return redirect("cart")


@require_POST
def note(request):
    request.session.setdefault("cart", empty_cart())["note"] = request.POST.get("note", "")[:500]
    request.session.flash("notice", "We will read your note.")
    return redirect("cart")


def session(request):
    rows = [
        {
            "name": name,
            "type": type(value).__name__,
            # Not a secret of the visitor's, yet nothing to show around either.
            "value": "…" if name == "_auth_user_hash" else json.dumps(value, indent=2),
        }
        for name, value in request.session.items()
    ]
    context = {
        "rows": rows,
        "stored": request.session.session_key is not None,
        "bytes": len(json.dumps(dict(request.session.items()))) if rows else 0,
        "expires": request.session.get_expiry_date(),
        "strategy": settings.STRATEGY.rpartition(".")[2],
        "store": settings.STORE,
        "in_table": isinstance(get_strategy(), DatabaseStrategy),
        "last": last_request(request),
    }
    return render(request, "shop/session.html", context)
