"""``manage.py clearexpiredsessions``: for cron, during live traffic, on tables of any size."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from contextlib import closing
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...strategies import get_strategy
from ...strategies.base import StrategyUnavailable
from ..batches import above_zero, exit_status, make_progress, seconds, sigterm_interrupts

REMAINING = 3  # the exit status of --fail-if-remaining


class Command(BaseCommand):
    help = (
        "Deletes expired sessions in short transactions, skipping locked rows. Safe to interrupt,"
        " and to run several times at once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--batch-size",
            type=above_zero,
            help="The most sessions to delete in one transaction (default: the strategy's; that of"
            " most is 1000).",
        )
        parser.add_argument(
            "--max-seconds",
            type=seconds,
            help="Stop after the first batch that ends after this many seconds.",
        )
        parser.add_argument(
            "--fail-if-remaining",
            action="store_true",
            help=f"Exit with status {REMAINING} if --max-seconds left expired sessions behind.",
        )
        parser.add_argument(
            "--sleep",
            type=seconds,
            default=0,
            help="Seconds to wait between batches, so that the store has time for requests.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Only count the expired sessions."
        )

    def handle(self, *args: Any, verbosity: int = 1, **options: Any) -> None:
        self.verbosity = verbosity
        strategy = get_strategy()
        name = type(strategy).__name__
        if strategy.expires_by_itself:
            self._say(f"Nothing to do: expired sessions of {name} vanish by themselves.")
            return
        try:
            if options["dry_run"]:
                self._say(f"{strategy.count_expired():,} sessions are expired.")
            else:
                self._clear(**options)
        except NotImplementedError as error:
            raise CommandError(f"{name} cannot clear expired sessions.") from error
        except StrategyUnavailable as error:
            raise CommandError(f"{error} What was deleted before stays deleted.") from error

    def _clear(self, max_seconds: float | None, fail_if_remaining: bool, **options: Any) -> None:
        self.deleted: int = 0
        remaining = 0
        try:
            with sigterm_interrupts():
                if self._delete(max_seconds, **options):
                    remaining = get_strategy().count_expired()
        except KeyboardInterrupt as interrupt:
            self._say(f"Interrupted. Deleted {self.deleted:,} expired sessions.")
            raise SystemExit(exit_status(interrupt)) from None
        outcome = (
            f" Stopped after {max_seconds:g} seconds: {remaining:,} remain." if remaining else ""
        )
        self._say(f"Deleted {self.deleted:,} expired sessions.{outcome}")
        if remaining and fail_if_remaining:
            raise CommandError(f"{remaining:,} expired sessions remain.", returncode=REMAINING)

    def _delete(
        self, max_seconds: float | None, batch_size: int | None, sleep: float, **options: Any
    ) -> bool:
        """Delete batch by batch. Return whether `max_seconds` ended it."""
        started = time.monotonic()
        strategy = get_strategy()
        with closing(make_progress(self.verbosity > 0, strategy.count_expired)) as progress:
            for count in strategy.clear_expired(batch_size or strategy.batch_size):
                self.deleted += count
                progress.update(count)
                if self.verbosity > 1:
                    progress.clear()
                    self._say(f"Deleted {count:,} expired sessions.")
                    self.stdout.flush()
                    progress.refresh()
                if max_seconds is not None and time.monotonic() - started >= max_seconds:
                    return True
                time.sleep(sleep)
        return False

    def _say(self, line: str) -> None:
        if self.verbosity > 0:
            self.stdout.write(line)
