"""Ask a store what will hurt. What the doctors of all stores have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from django.core import checks
from django.core.checks import CheckMessage, Error, Info
from django.db import DatabaseError, InternalError, NotSupportedError, ProgrammingError

from .base import SessionStrategy, StrategyUnavailable

UNAVAILABLE = "strategy_sessions.E020"
# What makes a server lose sessions, or share it, harms no cache of a durable store.
_HARMLESS_IN_A_CACHE = {
    *("strategy_sessions.W026", "strategy_sessions.W031", "strategy_sessions.W033"),
    *("strategy_sessions.W034", "strategy_sessions.E022"),
}
MOST_APART = 1.0  # seconds between two clocks
_LONGEST_LAG = 10  # seconds
_LARGEST_LAG = 64 * 2**20  # bytes


def examine(
    strategy: SessionStrategy, databases: Collection[str] | None = None
) -> Iterator[CheckMessage]:
    """Yield what `strategy` finds. A store that cannot answer is a finding too."""
    try:
        yield from strategy.examine(databases)
    except (StrategyUnavailable, DatabaseError) as error:
        cause = error.__cause__ if isinstance(error, StrategyUnavailable) else error
        reason = str(cause or error).strip().partition("\n")[0]
        yield Error(
            f"{type(strategy).__name__} could not ask its store: {reason}",
            hint="Start the server, or correct its address, user and password in the settings.",
            id=UNAVAILABLE,
        )


def examine_cache(
    strategy: SessionStrategy, databases: Collection[str] | None = None
) -> Iterator[CheckMessage]:
    """Like `examine`, for a strategy that may forget: a durable store is behind it."""
    for message in examine(strategy, databases):
        if message.id == UNAVAILABLE:
            yield checks.Warning(
                "The cache in front of the sessions' store does not answer, so each read asks the"
                f" store. {message.msg}",
                hint=message.hint,
                id="strategy_sessions.W027",
            )
        elif message.id not in _HARMLESS_IN_A_CACHE:
            yield message


def check_clock(store: str, asked: float, says: float, answered: float) -> Iterator[CheckMessage]:
    """Compare the clocks. The store told its time at some moment between the other two."""
    apart = says - min(max(says, asked), answered)
    if abs(apart) > MOST_APART:
        yield checks.Warning(
            f"The clock of {store} is {abs(apart):.1f} seconds"
            f" {'ahead of' if apart > 0 else 'behind'} that of this machine: hosts whose clocks"
            " differ do not agree on when a session ends.",
            hint="timedatectl set-ntp true  # on both",
            id="strategy_sessions.W020",
        )


def if_permitted(findings: Iterable[CheckMessage], store: str, what: str) -> Iterator[CheckMessage]:
    """Yield what a database lets this role find out."""
    try:
        yield from findings
    except (ProgrammingError, InternalError, NotSupportedError):
        yield cannot_see(store, what, "Grant the role of DATABASES the right to read the catalogs.")


def cannot_see(store: str, what: str, hint: str) -> CheckMessage:
    return Info(
        f"The doctor may not look at {what} in {store}.", hint=hint, id="strategy_sessions.I020"
    )


def check_lag(store: str, seconds: float, size: float, hint: str) -> Iterator[CheckMessage]:
    """`size`: how many bytes of what the server wrote a replica has not got."""
    if seconds > _LONGEST_LAG or size > _LARGEST_LAG:
        yield lags(store, f"is {seconds:,.0f} seconds and {size / 2**20:,.0f} MiB behind", hint)


def lags(store: str, how: str, hint: str) -> CheckMessage:
    return checks.Warning(
        f"A replica of {store} {how}: if it took over, the latest logins and logouts would be"
        " undone.",
        hint=hint,
        id="strategy_sessions.W026",
    )
