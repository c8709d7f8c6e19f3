"""Shared by commands that work in batches: options, progress, and how they stop."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


def above_zero(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be above zero")
    return number


def seconds(text: str) -> float:
    number = float(text)
    if not number >= 0:
        raise ArgumentTypeError("must be a number of seconds")
    return number


class Terminated(KeyboardInterrupt):
    """SIGTERM: a stop like Ctrl-C, with another exit status."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only it handles signals
        yield
        return

    def interrupt(*_given: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress(Protocol):
    def update(self, count: int, /) -> object: ...
    def clear(self) -> object: ...
    def refresh(self) -> object: ...
    def close(self) -> object: ...


class _Line:
    """Progress without tqdm: one line on stderr that is rewritten."""

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
    """Progress that is not shown."""

    def update(self, count: int) -> None:
        pass

    def clear(self) -> None:
        pass

    refresh = close = clear


def make_progress(watched: bool, count: Callable[[], int]) -> Progress:
    """Show progress on a terminal: a tqdm bar if tqdm is installed, otherwise a line."""
    if not watched or not sys.stderr.isatty():
        return _Nothing()
    total = count()
    try:
        from tqdm import tqdm
    except ImportError:
        return _Line(total)
    return tqdm(total=total, unit=" sessions")


def exit_status(interrupt: KeyboardInterrupt) -> int:
    # Shells add the number of the signal to 128.
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
