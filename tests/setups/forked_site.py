"""A site for uWSGI, which imports it in its master and then forks: a query at import.

``FORKED_SITE``: JSON of the database, the caches and the strategy.
"""

from __future__ import annotations

import json
import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

given = json.loads(os.environ["FORKED_SITE"])
settings.configure(
    ALLOWED_HOSTS=["*"],
    CACHES=given["caches"],
    DATABASES={"default": given["database"]},
    INSTALLED_APPS=["django.contrib.contenttypes", "django_strategy_sessions"],
    MIDDLEWARE=["django_strategy_sessions.middleware.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this process: 0123456789 0123456789",
    SESSION_ENGINE="django_strategy_sessions.engine",
    SESSION_STRATEGY=given["strategy"],
    USE_TZ=True,
)


def visit(request):
    number = request.session.setdefault("number", request.GET["number"])
    return JsonResponse({"number": number, "pid": os.getpid()})


def leave(request):
    request.session.flush()
    return JsonResponse({})


urlpatterns = [path("", visit), path("leave", leave)]
django.setup()
application = get_wsgi_application()

from django.core.management import call_command  # noqa: E402

from django_strategy_sessions.strategies import get_strategy  # noqa: E402

call_command("migrate", "django_strategy_sessions", verbosity=0)
assert get_strategy().load("nobody") is None
