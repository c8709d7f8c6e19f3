"""``manage.py clearexpiredsessions``: for cron, during live traffic, on tables of any size."""

from __future__ import annotations

import signal
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

from django.core.management.base import BaseCommand, CommandError

from ...strategies import get_strategy
from ...strategies.base import StrategyUnavailable

REMAINING = 3  # the exit status of --fail-if-remaining


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


class _Terminated(KeyboardInterrupt):
    """Raised by SIGTERM. Stops the command like Ctrl-C, with another exit status."""


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # only there can Python set handlers
        yield
        return

    def interrupt(*_given: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Progress(Protocol):
    def update(self, count: int, /) -> object: ...
    def clear(self) -> object: ...
    def refresh(self) -> object: ...
    def close(self) -> object: ...


class _Line:
    """Progress without tqdm: one line on stderr that is overwritten."""

    def __init__(self, total: int) -> None:
        self.total, self.count = total, 0
        self.refresh()

    def update(self, count: int) -> None:
        self.count += count
        self.refresh()

    def refresh(self) -> None:
        self._write(f"\r{self.count:,}/{self.total:,} sessions")

    def clear(self) -> None:
        self._write("\r" + " " * 60 + "\r")

    def close(self) -> None:
        self._write("\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class _Nothing:
    """No progress, because stderr is no terminal."""

    def update(self, count: int) -> None:
        pass

    def clear(self) -> None:
        pass

    refresh = close = clear


class Command(BaseCommand):
    help = (
        "Deletes expired sessions in short transactions, oldest first, skipping locked rows. Safe"
        " to interrupt, and to run several times at once."
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
            help="Stop after the first batch that ends after this many seconds.",
        )
        parser.add_argument(
            "--fail-if-remaining",
            action="store_true",
            help=f"Exit with status {REMAINING} if --max-seconds left expired sessions behind.",
        )
        parser.add_argument(
            "--sleep",
            type=_seconds,
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
        self.deleted = remaining = 0
        try:
            with _sigterm_interrupts():
                if self._delete(max_seconds, **options):
                    remaining = get_strategy().count_expired()
        except KeyboardInterrupt as interrupt:
            self._say(f"Interrupted. Deleted {self.deleted:,} expired sessions.")
            # Shells report a signal as 128 plus its number.
            number = signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT
            raise SystemExit(128 + number) from None
        outcome = (
            f" Stopped after {max_seconds:g} seconds: {remaining:,} remain." if remaining else ""
        )
        self._say(f"Deleted {self.deleted:,} expired sessions.{outcome}")
        if remaining and fail_if_remaining:
            raise CommandError(f"{remaining:,} expired sessions remain.", returncode=REMAINING)

    def _delete(
        self, max_seconds: float | None, batch_size: int, sleep: float, **options: Any
    ) -> bool:
        """Delete batch by batch. Return whether `max_seconds` ended it."""
        started = time.monotonic()
        with closing(self._progress()) as progress:
            for count in get_strategy().clear_expired(batch_size):
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

    def _progress(self) -> _Progress:
        if self.verbosity < 1 or not sys.stderr.isatty():
            return _Nothing()
        total = get_strategy().count_expired()
        try:
            from tqdm import tqdm
        except ImportError:
            return _Line(total)
        return tqdm(total=total, unit=" sessions")

    def _say(self, line: str) -> None:
        if self.verbosity > 0:
            self.stdout.write(line)
