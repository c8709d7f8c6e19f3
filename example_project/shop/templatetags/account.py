"""The part of the navigation that depends on who is visiting."""

from django.template import Library

from django_strategy_sessions.strategies.base import StrategyUnavailable

register = Library()


@register.inclusion_tag("shop/account.html", takes_context=True)
def account(context):
    """Show the cart's count and the way in or out, on every page, also during an outage.

    A template alone could not tell: ``{% if user.is_authenticated %}`` takes an error for False.
    """
    request = context.get("request")  # error pages have none
    if request is None:
        return {"known": False}
    try:
        return {
            "known": True,
            "name": request.user.get_username(),
            "count": _count(request.session.get("cart")),
            "here": request.path,
        }
    except StrategyUnavailable:
        return {"known": False, "here": request.path}


def _count(cart):
    return sum(item["quantity"] for item in cart["items"].values()) if cart else 0
