"""A switch that takes the session store offline, and what visitors notice.

What must work while the store is down does not need ``request.session``: the page, its switch
(Django's CSRF token is in a cookie of its own) and the fingerprint of the cookie.
"""

import hashlib

from django.conf import settings
from django.http import JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from .strategy import SwitchedStrategy


@never_cache
def page(request):
    context = {
        "off": SwitchedStrategy.off,
        "store": settings.STORE,
        "fingerprint": _fingerprint(request),
    }
    return render(request, "outage/outage.html", context)


@require_POST
def turn(request):
    SwitchedStrategy.off = request.POST.get("store") == "off"
    return redirect("outage")


@never_cache
def cookie(request):
    return JsonResponse({"off": SwitchedStrategy.off, "fingerprint": _fingerprint(request)})


@never_cache
def visitor(request):
    """Return the user that the session names."""
    return JsonResponse({"name": request.user.get_username()})


def _fingerprint(request):
    """Tell cookies apart without revealing them: the page may be photographed."""
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    return hashlib.sha256(key.encode()).hexdigest()[:6] if key else None
