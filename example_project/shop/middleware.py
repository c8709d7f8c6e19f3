"""Watches what each request does to the sessions' table, for the page that shows it."""

import json
import re
from importlib import import_module

from django.conf import settings
from django.core import signing
from django.db import connection

from django_strategy_sessions.models import StoredSession
from django_strategy_sessions.strategies.base import StrategyUnavailable

COOKIE = "last_request"
TABLE = StoredSession._meta.db_table
UNWATCHED = ("/session/", "/static/", "/admin/", "/docs/", "/race/", "/outage/")


class LastRequestMiddleware:
    """Stands outside the SessionMiddleware, so that it sees what the session saves."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        statements = []

        def watch(execute, sql, params, many, context):
            if TABLE in sql:
                statements.append(_summary(sql))
            return execute(sql, params, many, context)

        if request.path.startswith(UNWATCHED):
            return self.get_response(request)
        before = _data(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
        with connection.execute_wrapper(watch):
            response = self.get_response(request)
        after = _data(request.session.session_key)
        if before is None or after is None:
            return response
        seen = {
            "method": request.method,
            "path": request.path,
            "statements": statements,
            "added": sorted(after.keys() - before.keys()),
            "changed": sorted(n for n in after.keys() & before.keys() if after[n] != before[n]),
            "removed": sorted(before.keys() - after.keys()),
        }
        response.set_signed_cookie(COOKIE, json.dumps(seen), httponly=True, samesite="Lax")
        return response


def last_request(request):
    try:
        return json.loads(request.get_signed_cookie(COOKIE, default="null"))
    except (signing.BadSignature, ValueError):
        return None


def _data(session_key):
    """What the store holds, asked directly: two extra queries that only a demo should make."""
    try:
        return import_module(settings.SESSION_ENGINE).SessionStore(session_key).load()
    except StrategyUnavailable:
        return None


def _summary(sql):
    """``UPDATE expires, data`` for a statement, without its values."""
    verb = sql.split(maxsplit=1)[0]
    written = sql.partition(" SET ")[2].partition(" WHERE ")[0] if verb == "UPDATE" else ""
    return " ".join([verb, ", ".join(re.findall(r'"(\w+)" = ', written))]).strip()
