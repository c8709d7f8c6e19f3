"""``manage.py endsessions``: signs a user out everywhere, or everybody."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from ...signals import STAFF
from ...strategies.base import StrategyUnavailable
from ...users import CannotListSessions, end_sessions, sessions_of
from ..batches import exit_status, sigterm_interrupts


class Command(BaseCommand):
    help = "Ends all sessions of a user, or of all users. It leaves anonymous sessions alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("--user", metavar="NAME", help="The user with this name.")
        whose.add_argument("--all", action="store_true", help="All users, one after another.")
        parser.add_argument(
            "--except-staff", action="store_true", help="With --all: leave out staff."
        )
        parser.add_argument(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="interactive",
            help="Do not count the sessions first and do not ask for confirmation.",
        )

    def handle(self, *args: Any, verbosity: int = 1, **options: Any) -> None:
        self.verbosity = verbosity
        self.ended: int = 0
        try:
            with sigterm_interrupts():
                self._end(**options)
        except KeyboardInterrupt as interrupt:
            self._say(f"Interrupted. Ended {self.ended:,} sessions.")
            raise SystemExit(exit_status(interrupt)) from None
        except CannotListSessions as error:
            raise CommandError(str(error)) from error
        except StrategyUnavailable as error:
            raise CommandError(f"{error} What was ended before stays ended.") from error

    def _end(self, user: str | None, except_staff: bool, interactive: bool, **options: Any) -> None:
        if except_staff and user is not None:
            raise CommandError("--except-staff needs --all.")
        if except_staff and not hasattr(get_user_model(), "is_staff"):
            raise CommandError("--except-staff needs a user model that has is_staff.")
        if interactive and not self._confirm(user, except_staff):
            return
        for one in _find(user, except_staff):
            self.ended += end_sessions(one, reason=STAFF)
        self._say(f"Ended {self.ended:,} sessions.")

    def _confirm(self, user: str | None, except_staff: bool) -> bool:
        """Count and ask. Return whether there is something to end and the operator agreed."""
        count, impersonated = 0, set()
        for one in _find(user, except_staff):
            for session in sessions_of(one):
                if session.is_impersonated:  # found under both users
                    impersonated.add(session.reference)
                else:
                    count += 1
        count += len(impersonated)
        if not count:
            self._say("There are no sessions to end.")
            return False
        try:
            answer = input(f"This ends {count:,} sessions. Type 'yes' to continue: ")
        except EOFError:
            raise CommandError("No answer. --no-input ends them without a question.") from None
        if answer != "yes":
            self._say("Ended nothing.")
        return answer == "yes"

    def _say(self, line: str) -> None:
        if self.verbosity > 0:
            self.stdout.write(line)


def _find(name: str | None, except_staff: bool) -> Iterator[Any]:
    manager: Any = get_user_model()._default_manager
    if name is None:
        for user in manager.iterator():
            if not (except_staff and user.is_staff):
                yield user
        return
    try:
        yield manager.get_by_natural_key(name)
    except get_user_model().DoesNotExist as error:
        raise CommandError(f"There is no user {name!r}.") from error
