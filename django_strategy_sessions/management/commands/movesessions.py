"""``manage.py movesessions``: moves the sessions of visitors who have not come back yet."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from contextlib import closing
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...strategies import get_strategy
from ...strategies.base import StrategyUnavailable
from ...strategies.engines import Counts, Found
from ...strategies.moving import MOVE, MovingStrategy
from ..batches import above_zero, exit_status, make_progress, seconds, sigterm_interrupts


class Command(BaseCommand):
    help = (
        "Moves the sessions that an old engine still has to the target of MovingStrategy, beside"
        " live traffic. Safe to interrupt, to start again, and to run in several places at once."
    )

    requires_system_checks: Any = ()  # one of the checks says to run this command

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--batch-size",
            type=above_zero,
            default=500,
            help="How many sessions to read at once (default: %(default)s).",
        )
        parser.add_argument(
            "--max-seconds",
            type=seconds,
            help="Stop after the first batch that ends after this many seconds.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Only tell how many sessions would move."
        )

    def handle(self, *args: Any, verbosity: int = 1, **options: Any) -> None:
        self.verbosity = verbosity
        strategy = get_strategy()
        if not isinstance(strategy, MovingStrategy):
            raise CommandError(
                "movesessions needs sessions that are moving:\n"
                'SESSION_STRATEGY = {\n    "BACKEND": '
                '"django_strategy_sessions.strategies.moving.MovingStrategy",\n'
                '    "OPTIONS": {\n        "source": "django.contrib.sessions.backends.db",\n'
                '        "target": ...,  # what SESSION_STRATEGY is to be\n'
                '        "step": "move",\n    },\n}'
            )
        if strategy.step != MOVE and not options["dry_run"]:
            raise CommandError(
                'Sessions move in the second step:\nSESSION_STRATEGY["OPTIONS"]["step"] = "move"'
            )
        self.counts: Counts = Counts()
        self.verb: str = "Would move" if options["dry_run"] else "Moved"
        try:
            self._move(strategy, **options)
        except NotImplementedError as error:
            raise CommandError(
                "The source cannot list its sessions, so each moves when its visitor comes. Keep"
                " this setting for SESSION_COOKIE_AGE; by then the others have expired:\n"
                'SESSION_STRATEGY["OPTIONS"]["step"] = "move"'
            ) from error
        except StrategyUnavailable as error:
            raise CommandError(f"{error} What was moved before stays moved.") from error

    def _move(
        self, strategy: MovingStrategy, batch_size: int, dry_run: bool, **options: Any
    ) -> None:
        try:
            with sigterm_interrupts():
                ended = self._move_batches(strategy, batch_size, dry_run, **options)
        except KeyboardInterrupt as interrupt:
            self._say(f"Interrupted. {self._summary()}")
            raise SystemExit(exit_status(interrupt)) from None
        stopped = "" if ended else f" Stopped after {options['max_seconds']:g} seconds."
        self._say(self._summary() + stopped)

    def _move_batches(
        self,
        strategy: MovingStrategy,
        batch_size: int,
        dry_run: bool,
        max_seconds: float | None,
        **options: Any,
    ) -> bool:
        """Move batch by batch. Return whether all of them were moved."""
        started = time.monotonic()
        with closing(make_progress(self.verbosity > 0, strategy.count)) as progress:
            for counts in strategy.move_all(batch_size, dry_run):
                self.counts += counts
                progress.update(counts.total())
                if max_seconds is not None and time.monotonic() - started >= max_seconds:
                    return False
        return True

    def _summary(self) -> str:
        moved, expired, unreadable = (
            f"{self.counts[found]:,}" for found in (Found.MOVED, Found.EXPIRED, Found.UNREADABLE)
        )
        return f"{self.verb} {moved} sessions; {expired} have expired, {unreadable} are unreadable."

    def _say(self, line: str) -> None:
        if self.verbosity > 0:
            self.stdout.write(line)
