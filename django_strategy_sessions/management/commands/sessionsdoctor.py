"""``manage.py sessionsdoctor``: tells what will hurt, and what to do about it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Tags
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand

from ...conf import conf
from ...signing import MAKE_SECRET
from ...strategies import get_strategy
from ...strategies.health import UNAVAILABLE, examine

# The exit status, as monitoring plugins have it.
WARNING, ERROR, UNKNOWN = 1, 2, 3
_LEVELS = {
    "INFO": checks.INFO,
    "WARNING": checks.WARNING,
    "ERROR": checks.ERROR,
    "CRITICAL": checks.CRITICAL,
}
_SECURE = "SESSION_COOKIE_SECURE = True"
_HTTPONLY = "SESSION_COOKIE_HTTPONLY = True"
# Django's own checks that concern sessions. They come without hints.
_DJANGOS = {
    "security.W010": _SECURE,
    "security.W011": _SECURE,
    "security.W012": _SECURE,
    "security.W013": _HTTPONLY,
    "security.W014": _HTTPONLY,
    "security.W015": _HTTPONLY,
    "security.W018": "DEBUG = False",
}
# Only if SECRET_KEY and SECRET_KEY_FALLBACKS sign.
_OF_SECRET_KEY = {
    "security.W009": f'SECRET_KEY = os.environ["SECRET_KEY"]  # made by: {MAKE_SECRET}',
    "security.W025": "SECRET_KEY_FALLBACKS = []",
}


class Command(BaseCommand):
    help: str = (
        "Asks the settings and the store of sessions what will hurt, and says what to do. The exit"
        f" status is 0 if all is well, {WARNING} after warnings, {ERROR} after errors, and"
        f" {UNKNOWN} if the store could not be asked."
    )

    requires_system_checks: Any = ()  # it shows those that concern sessions itself

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument(
            "--fail-level",
            choices=list(_LEVELS),
            default="WARNING",
            help="The least level of a finding that changes the exit status (default:"
            " %(default)s).",
        )

    def handle(self, *args: Any, verbosity: int = 1, **options: Any) -> None:
        name, found = _examine()
        status = _find_status(found, _LEVELS[options["fail_level"]])
        if options["json"]:
            self._print_json(name, found, status)
        elif verbosity > 0:
            self._print(name, found)
        if status:
            raise SystemExit(status)

    def _print(self, name: str, found: list[CheckMessage]) -> None:
        self.stdout.write(f"{name}: {_summarize(found)}")  # first, as monitoring shows one line
        for message in found:
            style = self.style.ERROR if message.level >= checks.ERROR else self.style.WARNING
            line = f"{_level(message)}: {message.msg} ({message.id})"
            self.stdout.write("")
            self.stdout.write(style(line) if message.level > checks.INFO else line)
            if hint := _hint(message):
                self.stdout.write(hint)

    def _print_json(self, name: str, found: list[CheckMessage], status: int) -> None:
        findings = [
            {
                "id": message.id,
                "level": _level(message),
                "message": str(message.msg),
                "hint": _hint(message),
            }
            for message in found
        ]
        report = {"strategy": name, "status": status, "findings": findings}
        self.stdout.write(json.dumps(report, indent=2))


def _examine() -> tuple[str, list[CheckMessage]]:
    """Return the name of the strategy, and all findings that are not silenced, worst first."""
    djangos = {*_DJANGOS, *(() if conf.SESSION_COOKIE_SECRETS else _OF_SECRET_KEY)}
    found = [
        message
        for message in checks.run_checks(tags=[Tags.security], include_deployment_checks=True)
        if message.id in djangos or (message.id or "").startswith("strategy_sessions.")
    ]
    try:
        strategy = get_strategy()
    except ImproperlyConfigured:  # a check has reported this
        name = "No strategy"
    else:
        name = type(strategy).__name__
        found += examine(strategy)
    shown = [message for message in found if not message.is_silenced()]
    return name, sorted(shown, key=lambda message: -message.level)


def _find_status(found: list[CheckMessage], level: int) -> int:
    if any(message.id == UNAVAILABLE for message in found):
        return UNKNOWN
    worst = max((message.level for message in found), default=0)
    if worst < level:
        return 0
    return ERROR if worst >= checks.ERROR else WARNING


def _hint(message: CheckMessage) -> str | None:
    hint = message.hint or {**_DJANGOS, **_OF_SECRET_KEY}.get(message.id or "")
    return hint and str(hint)


def _level(message: CheckMessage) -> str:
    return next(name for name, level in reversed(_LEVELS.items()) if message.level >= level)


def _summarize(found: list[CheckMessage]) -> str:
    levels = [_level(message).lower() for message in found]
    counts = {level: levels.count(level) for level in dict.fromkeys(levels)}
    findings = [f"{count} {level}{'s' * (count > 1)}" for level, count in counts.items()]
    return f"{', '.join(findings)}." if findings else "healthy."
