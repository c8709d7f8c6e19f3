"""``manage.py clearexpiredsessions``: for cron, beside live traffic, on tables of any size."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from ...conf import get_strategy
from ...strategies.base import StrategyUnavailable


def _above_zero(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be above zero")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not number >= 0:
        raise ArgumentTypeError("must be a number of seconds")
    return number


class Command(BaseCommand):
    help = (
        "Deletes expired sessions in short transactions, oldest first, passing rows that others"
        " hold locked. Safe to interrupt, and to run in several places at once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--batch-size",
            type=_above_zero,
            default=1000,
            help="How many sessions to delete in one transaction (default: %(default)s).",
        )
        parser.add_argument(
            "--max-seconds",
            type=_seconds,
            help="Stop after the batch in which so many seconds have passed.",
        )
        parser.add_argument(
            "--sleep",
            type=_seconds,
            default=0,
            help="Seconds to wait between batches, to leave the store to its users.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Only tell how many sessions are expired."
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

    def _clear(
        self, batch_size: int, max_seconds: float | None, sleep: float, **options: Any
    ) -> None:
        strategy, started, deleted, outcome = get_strategy(), time.monotonic(), 0, ""
        on_terminal = self.verbosity > 0 and sys.stderr.isatty()
        total = strategy.count_expired() if on_terminal else None
        with tqdm(total=total, unit=" sessions", disable=not on_terminal) as bar:
            try:
                for count in strategy.clear_expired(batch_size):
                    deleted += count
                    bar.update(count)
                    if self.verbosity > 1:
                        self._say(f"Deleted {count:,} expired sessions.")
                    if max_seconds is not None and time.monotonic() - started >= max_seconds:
                        outcome = f" Stopped after {max_seconds:g} seconds."
                        break
                    time.sleep(sleep)
            except KeyboardInterrupt:
                self._say(f"Interrupted. Deleted {deleted:,} expired sessions.")
                raise SystemExit(130) from None  # as shells tell an end by Ctrl-C
        self._say(f"Deleted {deleted:,} expired sessions.{outcome}")

    def _say(self, line: str) -> None:
        if self.verbosity > 0:
            self.stdout.write(line)
