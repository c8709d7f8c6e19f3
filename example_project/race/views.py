"""The race: many requests write to one session at once, on Django's engine and on ours.

These views serve both sides and do not know which. The path decides, in `middleware`.
"""

import secrets
import time

from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

REQUESTS = 20
SERVICE_TAKES = 0.25  # seconds


def page(request):
    context = {
        "djangos_engine": settings.DJANGOS_ENGINE,
        "our_engine": settings.SESSION_ENGINE,
        "store": settings.STORE,
        "numbers": range(1, REQUESTS + 1),
        "seconds": SERVICE_TAKES,
    }
    return render(request, "race/race.html", context)


@require_POST
def start(request):
    """Make the session in which the requests will meet."""
    _clear(request.session)
    request.session["race"] = secrets.token_hex(4)
    return HttpResponse(status=204)


@require_POST
def write(request, number):
    """Do what many views do: read the session, call a slow service, save its answer."""
    race = request.session.get("race")
    time.sleep(SERVICE_TAKES)
    request.session[f"race_{number:02}"] = race
    return HttpResponse(status=204)


def kept(request):
    """Return which writes of this race are in the store."""
    race = request.session.get("race")
    numbers = range(1, REQUESTS + 1)
    return JsonResponse(
        {"kept": [n for n in numbers if race and request.session.get(f"race_{n:02}") == race]}
    )


@require_POST
def tidy(request):
    """Leave the session as it was before the race."""
    _clear(request.session)
    if not request.session.keys():
        request.session.flush()
    return HttpResponse(status=204)


def _clear(session):
    for key in ("race", *(f"race_{number:02}" for number in range(1, REQUESTS + 1))):
        session.pop(key, None)
