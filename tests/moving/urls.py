"""A shop whose visitors are logged in and fill their carts, each with numbers of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.contrib import messages
from django.contrib.auth import get_user_model, login, logout
from django.http import JsonResponse
from django.middleware.csrf import get_token
from django.urls import path

AGES = [None, 0, 3600, timedelta(days=3), datetime.now(UTC) + timedelta(days=2)]


def enter(request, number):
    user = get_user_model().objects.get(username=f"visitor {number}")
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    request.session["cart"] = []
    request.session["owner"] = number
    request.session.set_expiry(AGES[number % len(AGES)])
    return JsonResponse({"token": get_token(request)})


def add(request, item):
    """Needs a token that was given at the beginning, and tells the message of the last request."""
    seen = [str(message) for message in messages.get_messages(request)]
    cart = request.session["cart"]
    cart.append(item)
    request.session["cart"] = cart
    messages.info(request, f"added {item}")
    return JsonResponse({"seen": seen, **told(request)})


def look(request):
    return JsonResponse(told(request))


def leave(request):
    logout(request)
    return JsonResponse({})


def told(request):
    user = request.user.get_username()
    return {name: request.session.get(name) for name in ("cart", "owner")} | {"user": user}


urlpatterns = [
    path("enter/<int:number>/", enter),
    path("add/<int:item>/", add),
    path("look/", look),
    path("leave/", leave),
]
