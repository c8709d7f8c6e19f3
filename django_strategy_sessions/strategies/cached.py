"""A cache in front of a durable store: a load that hits costs one round trip and no query.

The store alone decides every write. The cache holds copies of its rows, and never one that a
finished write has replaced. It may fail, hang, be emptied, evict keys, or come back with old
contents: none of this loses a session or brings one back. This page is the argument why.

**A copy is put in only in place of one's own token.** An entry of the cache is a copy (``r``), the
token of a reader that is filling it (``f``), or a mark that writers are under way (``w``), with
their number and the token of the last one.

- A reader that finds nothing leaves its token, then reads the store, then replaces its token with
  what it read. If its token is gone, it puts nothing in.
- A writer sets the mark, then writes to the store, then settles: it replaces its mark with what it
  wrote, or, if any other writer came or went meanwhile, or the epoch (see below) has changed,
  removes the entry. Only then does the request go on.

So before a write returns, its last step has removed any copy, and any token, older than itself. A
reader that leaves its token after that reads what was written, however late it puts it in. If a
writer crashes, its mark keeps readers at the store for a minute. The cache makes each token anew,
so a command that arrives once more, because its first reply was late, leaves one that nobody knows.

**The gate.** Copies count only while the cache holds a *lease*, for one second, which names an
*epoch* and the server's process. A reader asks for both in one command, over a connection of which
it knows the process: a connection ends with its process. A reader that finds no lease reads the
*gate*, a row of the store: if it is open for this process of the server, the reader grants a lease,
which begins before it read the gate. If it is open for another process, because the cache
restarted, failed over or was replaced, the reader closes it. Once it has been closed for a while, a
reader opens it with a new epoch, and no copy of an earlier one counts again.

So after the gate has been closed for the length of a lease, nobody reads a copy, also a process
that can reach the cache. A writer that cannot settle, or that settles where there is no lease,
reads the gate: if it is open for another process, or the writer reached none, it closes the gate
and waits that long.

Nothing depends on the clocks of the application, and on that of the cache only for the length of
one lease.

**Transactions.** Other requests see a write when it is committed, so its mark stays until then, and
it settles afterwards. After a rollback the mark runs out.

**Processes without the cache** do not settle. So turn the cache on in two steps: first with
``reads=False``, and when every process has that, without. Turn it off in the reverse order. Each
process with ``reads=False`` first closes the gate, so no copy from before counts afterwards.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from django.core.checks import ERROR, CheckMessage
from django.db import Error, connections, transaction
from django.db.models.signals import post_delete
from redis.exceptions import RedisError

from .. import records
from ..models import StoredSession
from ..signals import CACHE_BYPASSED, CACHE_HIT, CACHE_MISS, tell
from ..steps import Steps, arun, call, run
from . import WrongOption, make_strategy
from .base import Stored, StrategyUnavailable
from .breaker import Breaker
from .copies import (
    FILL,
    GRANT,
    LEASE,
    LEAVE,
    MARK,
    NO_LEASE,
    PUT,
    SETTLE,
    TOKEN,
    encode,
    find_copy,
    is_worth_a_copy,
)
from .health import examine, examine_cache
from .redis import RedisStrategy
from .sealed import Held, Row, SealedStrategy
from .transactions import is_in_transaction

T = TypeVar("T")

_CLOSED_FOR = 10.0  # seconds, at least, for which the gate stays closed
_PAUSE = 1.0  # seconds between two looks at a closed gate
# Seconds for which a writer tries to settle. A closed gate is felt by all processes, so it must not
# close because an event loop, or the cache, was busy for a moment.
_INSISTED = 1.0
_RETRY = 0.05  # seconds between two attempts
_TIMEOUT = 0.5  # seconds, of the cache
_CLOSED = "closed"  # in place of the server's process in the gate's row


class _Gate(NamedTuple):
    """The row of the store that says whether copies count."""

    row: Row

    @property
    def epoch(self) -> str:
        return self.row.record[:TOKEN]

    @property
    def process(self) -> str:
        return self.row.record[records.MAC_LENGTH :]

    @property
    def is_closed(self) -> bool:
        return self.process == _CLOSED


class CachedStrategy(SealedStrategy):
    """`cache`, `store`: each what ``SESSION_STRATEGY`` may be, a `RedisStrategy` and a durable one.

    `reads`: ``False`` while some processes do not use the cache yet, or do not any more. The
    cache's `timeout` is 0.5 seconds unless its options or the alias say otherwise.
    """

    def __init__(self, cache: Any, store: Any, reads: bool = True) -> None:
        self.cache: RedisStrategy = _make_cache(cache)
        self.store: SealedStrategy = _make_store(store)
        self.reads: bool = _require_bool(reads)
        self.finds_owners: bool = self.store.finds_owners
        self.batch_size: int = self.store.batch_size
        self.conflicts_before_turn: int = self.store.conflicts_before_turn  # type: ignore[misc]
        self.header_length: int = self.store.header_length  # type: ignore[misc]
        self._breaker = Breaker(StrategyUnavailable, RedisError)
        self._leases: dict[str | None, str] = {}  # their names, by the store's alias
        # The gate as this process found it closed, and since when, by `time.monotonic`.
        self._closed: tuple[str, float] = "", 0.0
        self._reads_after: float = 0.0
        self._has_closed: bool = False
        # The admin, and the project's own code, may delete rows of the model.
        post_delete.connect(self._forget, sender=StoredSession)

    # -- the verbs, sync and async -----------------------------------------------------------------

    def get(self, key: str) -> Row | None:
        return run(self, self._get(key))

    async def aget(self, key: str) -> Row | None:
        return await arun(self, self._get(key))

    def add(self, key: str, row: Row) -> bool:
        # Nobody else knows the id yet. A copy put in after the fact might outlive the session.
        return self.store.add(key, row)

    async def aadd(self, key: str, row: Row) -> bool:
        return await self.store.aadd(key, row)

    def swap(self, key: str, held: Row, row: Row) -> bool:
        return bool(run(self, self._write_through(key, row, SealedStrategy.swap, key, held, row)))

    async def aswap(self, key: str, held: Row, row: Row) -> bool:
        swap = self._write_through(key, row, SealedStrategy.swap, key, held, row)
        return bool(await arun(self, swap))

    def move(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        moved = key, held, marker, new_key, row
        return bool(run(self, self._write_through(key, None, SealedStrategy.move, *moved)))

    async def amove(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        moved = key, held, marker, new_key, row
        return bool(await arun(self, self._write_through(key, None, SealedStrategy.move, *moved)))

    def remove(self, key: str) -> bool:
        return bool(run(self, self._write_through(key, None, SealedStrategy.remove, key)))

    async def aremove(self, key: str) -> bool:
        return bool(await arun(self, self._write_through(key, None, SealedStrategy.remove, key)))

    def in_turn(self, key: str, steps: Steps[T]) -> T:
        # The store runs the steps, so they read and write without the cache.
        answer: T = run(self, self._write_through(key, None, SealedStrategy.in_turn, key, steps))
        return answer

    async def ain_turn(self, key: str, steps: Steps[T]) -> T:
        answer: T = await arun(
            self, self._write_through(key, None, SealedStrategy.in_turn, key, steps)
        )
        return answer

    def confirm(self, key: str, row: Row) -> None:
        run(self, self._confirm(key, row))

    async def aconfirm(self, key: str, row: Row) -> None:
        await arun(self, self._confirm(key, row))

    # -- what the store alone does -----------------------------------------------------------------

    def find(self, owner: str) -> Mapping[str, Row]:
        return self.store.find(owner)

    async def afind(self, owner: str) -> Mapping[str, Row]:
        return await self.store.afind(owner)

    def add_all(self, rows: Mapping[str, Row]) -> None:
        self.store.add_all(rows)

    def list_keys(self, size: int) -> Iterator[list[str]]:
        return self.store.list_keys(size)

    def count_keys(self) -> int:
        return self.store.count_keys()

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        return self.store.clear_expired(batch_size)

    def count_expired(self) -> int:
        return self.store.count_expired()

    def is_conflict(self, error: StrategyUnavailable) -> bool:
        return self.store.is_conflict(error)

    def is_undone(self, written: Stored | None) -> Callable[[], bool] | None:
        return self.store.is_undone(written)

    def header(self, expires: datetime, created: datetime) -> str:
        return self.store.header(expires, created)

    def is_native(self) -> bool:
        return self.store.is_native() and self.cache.is_native()

    @property
    def alias(self) -> str | None:
        """Which of ``DATABASES`` the store uses, if it uses one."""
        return getattr(self.store, "alias", None)

    def check(self) -> Iterable[CheckMessage]:
        # Warnings about what Redis may lose are for those who keep sessions there alone.
        yield from (message for message in self.cache.check() if message.level >= ERROR)
        yield from self.store.check()

    def examine(self, databases: Collection[str] | None = None) -> Iterable[CheckMessage]:
        yield from examine_cache(self.cache, databases)
        yield from examine(self.store, databases)

    # -- reading -----------------------------------------------------------------------------------

    def _get(self, key: str) -> Steps[Row | None]:
        names, left = self._names(key), None
        if not self.reads:
            yield from self._close_gate_once()
        elif time.monotonic() >= self._reads_after:
            copy, left = yield from self._look(names)
            if left and left[0] == NO_LEASE and (yield from self._renew_lease(*left[1:])):
                copy, left = yield from self._look(names)
            if copy is not None:
                tell(type(self), CACHE_HIT)
                return copy
        tell(type(self), CACHE_BYPASSED if not left or left[0] == NO_LEASE else CACHE_MISS)
        row = yield from call(CachedStrategy.in_store, SealedStrategy.get, key)
        if left and left[0] == FILL and row is not None and is_worth_a_copy(row):
            yield from self._put_in(names, left[1], row)
        return row

    def _look(self, names: list[str]) -> Steps[tuple[Row | None, Any | None]]:
        """Return the copy, or else the cache's reply to a reader that leaves its token."""
        copy = yield from self._find_copy(names)
        return copy, (yield from self._ask(LEAVE, names)) if copy is None else None

    def _find_copy(self, names: list[str]) -> Steps[Row | None]:
        if self._breaker.is_open():
            return None
        with self._breaker:
            found, process = yield from call(CachedStrategy.find_in_cache, names)
            if not isinstance(found, list) or len(found) != len(names):
                raise StrategyUnavailable("The cache answered another question.")
            lease, entry = found
            return find_copy(lease, entry, process)
        return None

    def _put_in(self, names: list[str], left: str, row: Row) -> Steps[None]:
        """Put in a copy of `row` if the cache still holds what this reader `left`."""
        if (yield from call(CachedStrategy.is_snapshot)):
            return  # the row may be older than that
        # The row may be this transaction's own.
        yield from self._when_final(partial(self._ask, PUT, names, left, *encode(row)))

    def _confirm(self, key: str, row: Row) -> Steps[None]:
        held = yield from call(CachedStrategy.in_store, SealedStrategy.get, key)
        if held is None or held.record != row.record:
            yield from self._ask(SETTLE, self._names(key), "")
            raise StrategyUnavailable("The cache answered with another session.")

    # -- writing -----------------------------------------------------------------------------------

    def _write_through(
        self, key: str, row: Row | None, verb: Callable[..., Any], *arguments: Any
    ) -> Steps[Any]:
        """Write to the store. `row`: what it then holds under `key`, unless the verb says no."""
        mark = yield from self._mark(key)
        answer = yield from call(CachedStrategy.in_store, verb, *arguments)
        settle = partial(self._settle, key, mark, row if answer else None)
        yield from self._when_final(settle)
        if isinstance(answer, Stored) and (written := cast(Held, answer.token).key) != key:
            # It has followed a rotation.
            yield from self._when_final(partial(self._settle, written, "", None))
        return answer

    def _mark(self, key: str) -> Steps[str]:
        reply = yield from self._ask(MARK, self._names(key))
        return reply[0] if reply else ""

    def _when_final(self, steps: Callable[[], Steps[T]]) -> Steps[T | None]:
        """Run `steps` once no transaction can undo what was written. Return their answer, or
        ``None`` if that is not now."""
        if (yield from call(CachedStrategy.is_provisional)):
            transaction.on_commit(lambda: run(self, steps()), using=self.alias)
            return None
        return (yield from steps())

    def _settle(self, key: str, mark: str, row: Row | None) -> Steps[None]:
        """Make sure that no copy of this session counts that is older than what the store holds."""
        if not self.reads:
            yield from self._close_gate_once()
        copy = encode(row) if self.reads and row and is_worth_a_copy(row) else ()
        names, ends, reply = self._names(key), time.monotonic() + _INSISTED, None
        while reply is None and time.monotonic() < ends:
            if self._breaker.is_open():
                held = yield from self._read_gate()
                if self._count_seconds_left(held, None) == 0:
                    return
            reply = yield from self._ask(SETTLE, names, mark, *copy, insist=True)
            if reply is None:
                yield from call(SealedStrategy.pause, _RETRY)
        if reply is None:
            yield from self._wait_for_end_of_leases(None)
        elif reply[0] == NO_LEASE:
            yield from self._wait_for_end_of_leases(reply[1])

    def _forget(self, instance: StoredSession, using: str, **kwargs: Any) -> None:
        if using == self.alias:
            key = instance.pk.hex
            mark = run(self, self._mark(key))
            run(self, self._when_final(partial(self._settle, key, mark, None)))

    # -- the gate ----------------------------------------------------------------------------------

    def _wait_for_end_of_leases(self, process: str | None) -> Steps[None]:
        """Return when no lease can be left but from this process of the cache's server."""
        held = yield from self._read_gate()
        while (wait := self._count_seconds_left(held, process)) is None:
            yield from self._swap_gate(held, _make_gate(_CLOSED))
            held = yield from self._read_gate()
        if wait:
            yield from call(SealedStrategy.pause, wait)

    def _count_seconds_left(self, held: Row | None, process: str | None) -> float | None:
        """Return for how long a lease can be left that this process of the cache's server did not
        grant. ``None``: the gate is open for others."""
        if process is not None and (held is None or _Gate(held).process == process):
            return 0
        if held is None or not _Gate(held).is_closed:
            return None
        # A reader may have got its answer at the last moment of its lease.
        lasts = LEASE + self.cache.clients.find_timeout()
        return max(0, lasts - self._count_seconds_closed(held))

    def _renew_lease(self, process: str, now: int) -> Steps[bool]:
        """Grant a lease that began at `now`, if the gate is open for this process of the server."""
        if (yield from call(CachedStrategy.is_snapshot)):
            return False  # the gate may have been closed since
        held = yield from self._read_gate()
        if held is None or self._count_seconds_closed(held) >= _CLOSED_FOR:
            held = yield from self._change_gate(held, _make_gate(process))
        elif not _Gate(held).is_closed and _Gate(held).process != process:
            held = yield from self._change_gate(held, _make_gate(_CLOSED))
        granted = None
        if held is not None and _Gate(held).process == process:
            lease, ends = self._names(""), now + int(LEASE * 1000)
            granted = yield from self._ask(GRANT, lease, _Gate(held).epoch, process, ends)
        if granted != [1]:
            self._reads_after = time.monotonic() + _PAUSE
        return granted == [1]

    def _count_seconds_closed(self, held: Row) -> float:
        """Return for how long this process knows that nobody has opened or closed the gate."""
        if not _Gate(held).is_closed:
            return 0.0
        now = time.monotonic()
        if self._closed[0] != held.record:
            self._closed = held.record, now
        return now - self._closed[1]

    def _close_gate_once(self) -> Steps[None]:
        """Close the gate before this process does anything else, because others may have written
        without the cache since it was opened."""
        if self._has_closed or (yield from call(CachedStrategy.is_snapshot)):
            return
        held = yield from self._read_gate()
        if held is not None and not _Gate(held).is_closed:
            held = yield from self._change_gate(held, _make_gate(_CLOSED))
        self._has_closed = held is None or _Gate(held).is_closed

    def _change_gate(self, held: Row | None, row: Row) -> Steps[Row | None]:
        """Return what the gate is now, or ``None`` if it will not be that before a commit, or if
        another process has changed it."""
        swapped = yield from self._when_final(partial(self._swap_gate, held, row))
        return row if swapped else None

    def _read_gate(self) -> Steps[Row | None]:
        return (yield from call(CachedStrategy.in_store, SealedStrategy.get, records.GATE))

    def _swap_gate(self, held: Row | None, row: Row) -> Steps[bool]:
        swap: Any = SealedStrategy.swap if held else SealedStrategy.add
        given = (held, row) if held else (row,)
        return bool((yield from call(CachedStrategy.in_store, swap, records.GATE, *given)))

    # -- the two stores ----------------------------------------------------------------------------

    def in_store(self, verb: Callable[..., T], *arguments: Any) -> T:
        answer: T = getattr(self.store, verb.__name__)(*arguments)
        return answer

    async def ain_store(self, verb: Callable[..., T], *arguments: Any) -> T:
        answer: T = await getattr(self.store, f"a{verb.__name__}")(*arguments)
        return answer

    def find_in_cache(self, names: list[str]) -> tuple[Any, str | None]:
        return self.cache.clients.identify("MGET", *names)

    async def afind_in_cache(self, names: list[str]) -> tuple[Any, str | None]:
        return await self.cache.clients.aidentify("MGET", *names)

    def in_cache(self, script: str, names: list[str], *values: Any) -> Any:
        return self.cache.clients.repeatable_script(script, names, *values)

    async def ain_cache(self, script: str, names: list[str], *values: Any) -> Any:
        return await self.cache.clients.arepeatable_script(script, names, *values)

    def is_provisional(self) -> bool:
        """Whether a write is part of a transaction, so that other requests do not see it yet."""
        # Without autocommit, `on_commit` will say that it cannot tell when that is.
        return is_in_transaction(self.alias) or not (
            self.alias is None or connections[self.alias].get_autocommit()
        )

    async def ais_provisional(self) -> bool:
        return False  # see `is_native`

    def is_snapshot(self) -> bool:
        """Whether a read may miss what other requests have committed."""
        if self.alias is None or not is_in_transaction(self.alias):
            return False
        connection = connections[self.alias]
        if connection.vendor == "postgresql":  # where a role or a function can have set it
            with suppress(Error), connection.cursor() as cursor:
                cursor.execute("SHOW transaction_isolation")
                return bool(cursor.fetchone() != ("read committed",))
            return True
        # Django's default is READ COMMITTED for all but SQLite.
        return connection.vendor == "sqlite" or "isolation_level" in connection.settings_dict.get(
            "OPTIONS", {}
        )

    async def ais_snapshot(self) -> bool:
        return False

    def _ask(
        self, script: str, names: list[str], *values: Any, insist: bool = False
    ) -> Steps[Any | None]:
        """Return the cache's reply, or ``None`` if it gives none. `insist`: ask also if it failed
        just now."""
        if self._breaker.is_open() and not insist:
            return None
        token = _new_token()
        with self._breaker:
            reply = yield from call(CachedStrategy.in_cache, script, names, token, *values)
            if not isinstance(reply, list) or reply[:1] != [token]:
                raise StrategyUnavailable("The cache answered another question.")
            return reply[1:]
        return None

    def _names(self, key: str) -> list[str]:
        alias = self.alias
        if (lease := self._leases.get(alias)) is None:
            # Another project may share the cache, but not the gate.
            given = connections[alias].settings_dict if alias else {}
            store = records.hashed(f"{given.get('HOST')}:{given.get('PORT')}/{given.get('NAME')}")
            lease = self._leases[alias] = f"{self.cache.prefix}lease:{store}"
        return [lease, f"{self.cache.prefix}cached:{key}"]


def _make_cache(setting: Any) -> RedisStrategy:
    strategy = make_strategy(setting, '"cache"')
    if not isinstance(strategy, RedisStrategy):
        raise WrongOption(
            f'"cache" has to be a RedisStrategy, not {type(strategy).__name__}.',
            hint='SESSION_STRATEGY["OPTIONS"]["cache"] = {\n'
            f'    "BACKEND": "{RedisStrategy.__module__}.RedisStrategy",\n'
            '    "OPTIONS": {"alias": "default"},\n}',
        )
    if "cluster" in strategy.clients.kind():  # a lease is for the copies on its own server
        raise WrongOption(
            f'"cache" cannot be a Redis Cluster, as the cache {strategy.clients.alias!r} is.',
            hint=f'CACHES["{strategy.clients.alias}"] = {{\n'
            '    "BACKEND": "django_redis.cache.RedisCache",\n'
            '    "LOCATION": "redis://127.0.0.1:6379/0",\n}',
        )
    if isinstance(setting, str) or "timeout" not in setting.get("OPTIONS", {}):
        strategy.clients.timeout = _TIMEOUT
    return strategy


def _make_store(setting: Any) -> SealedStrategy:
    strategy = make_strategy(setting, '"store"')
    if (
        isinstance(strategy, SealedStrategy)
        and not isinstance(strategy, CachedStrategy)
        and not strategy.expires_by_itself
        and strategy.is_shared
    ):
        return strategy
    raise WrongOption(
        f'"store" has to be a durable store that every process shares, such as a database:'
        f" {type(strategy).__name__} does not qualify.",
        hint='SESSION_STRATEGY["OPTIONS"]["store"] ='
        ' "django_strategy_sessions.strategies.postgres.PostgresStrategy"',
    )


def _require_bool(reads: Any) -> bool:
    if isinstance(reads, bool):
        return reads
    # A text from the environment would count as true, and copies would be read.
    raise WrongOption(
        f'"reads" has to be True or False, and it is {reads!r}.',
        hint='SESSION_STRATEGY["OPTIONS"]["reads"] = False',
    )


def _new_token() -> str:
    return secrets.token_hex(TOKEN // 2)


def _make_gate(process: str) -> Row:
    now = datetime.now(UTC)
    token = secrets.token_urlsafe(records.MAC_LENGTH)[: records.MAC_LENGTH]
    return Row(token + process, now + timedelta(days=36_500), now)
