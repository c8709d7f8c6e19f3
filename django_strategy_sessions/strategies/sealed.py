"""Strategies that keep sealed rows: every rule about a session at rest, once for all stores.

A store implements five verbs on opaque rows; this module hashes, seals, compares, merges, retries
and follows rotations. If the store's client supports event loops, each verb may have an `a` twin;
without twins, async code runs the sync verbs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

from asgiref.sync import sync_to_async

from .. import records
from ..hidden import Hidden
from ..lines import as_dict
from ..signals import MERGED, UNREADABLE, tell
from ..steps import Steps, arun, call, run
from .base import (
    USER,
    Data,
    Owned,
    SessionStrategy,
    Stored,
    StrategyUnavailable,
    Texts,
    as_texts,
    brings_user,
    owners_of,
    reconcile,
)
from .loops import within_sync_code

T = TypeVar("T")

_logger = logging.getLogger("django.security.SuspiciousSession")

CONFLICTS = 8  # after this many conflicts, a save takes a lock, where the store has locks
LONGEST_PAUSE = 0.1  # seconds, between two attempts of a save without a lock
PATIENCE = 5.0  # seconds after which a save without a lock gives up
# For this long after a rotation, a save that loaded the old key follows to the new key: the longest
# time that a request may take.
FOLLOWED_FOR = timedelta(seconds=60)


# A record that no compare-and-set matches, so a save must first read what the store holds.
NEVER = ""


class Row(NamedTuple):
    """A session as a store keeps it: the sealed record, and all that the store may know of it."""

    record: str  # see `records`; the first ``records.MAC_LENGTH`` characters are its mac
    expires: datetime
    created: datetime
    owner: str | None = None  # str of the user's primary key
    impersonator: str | None = None  # the same of the person who acts as that user

    @property
    def mac(self) -> str:
        return Hidden(self.record[: records.MAC_LENGTH])

    def __repr__(self) -> str:
        return f"<Row until {self.expires}>"

    def __sentry_repr__(self) -> str:
        return repr(self)


class Held(NamedTuple):
    """The token of a `Stored`: the row that the store held, and its key."""

    key: str
    row: Row


def log_damaged(sender: type) -> None:
    """Log a row that no strategy of ours wrote, for example one that ends in the year 10000."""
    _logger.warning("A damaged session row was treated as no session.")
    tell(sender, UNREADABLE)


class SealedStrategy(SessionStrategy):
    atomic = True
    keeps_created = True
    # After this many conflicts, a save continues inside `in_turn`.
    conflicts_before_turn: ClassVar[int] = 1

    # -- what a store writes ----------------------------------------------------------------------

    def get(self, key: str) -> Row | None:
        """Return the row, expired or not; ``None`` if there is none, or if it is damaged."""
        raise NotImplementedError(f"{type(self).__name__} must define get()")

    def add(self, key: str, row: Row) -> bool:
        """Insert the row, never overwrite. False: the key is taken."""
        raise NotImplementedError(f"{type(self).__name__} must define add()")

    def swap(self, key: str, held: Row, row: Row) -> bool:
        """Atomically replace `held` with `row`. False: the stored mac is no longer `held`'s.

        If ``row.record`` equals ``held.record``, only the expiry moves.
        """
        raise NotImplementedError(f"{type(self).__name__} must define swap()")

    def move(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        """Replace `held` with `marker` and insert `row` under `new_key`: both, or neither."""
        raise NotImplementedError(f"{type(self).__name__} must define move()")

    def remove(self, key: str) -> bool:
        """Delete the row, unless it is a marker. False: there was no row, or a marker."""
        raise NotImplementedError(f"{type(self).__name__} must define remove()")

    def find(self, owner: str) -> Mapping[str, Row]:
        """Return by key every row whose `owner` or `impersonator` is this one. More is fine: the
        seals tell. Optional: also set ``finds_owners = True``."""
        raise NotImplementedError(f"{type(self).__name__} does not define find()")

    def in_turn(self, key: str, steps: Steps[T]) -> T:
        """Run `steps` under a lock on this key, if the store has locks."""
        return run(self, steps)

    def add_all(self, rows: Mapping[str, Row]) -> None:
        """`add` each row; for moving many sessions at once."""
        for key, row in rows.items():
            self.add(key, row)

    def swap_all(self, held: Row, rows: Mapping[str, Row]) -> int:
        """`swap` `held` for each row. Return how many were swapped."""
        return sum(self.swap(key, held, row) for key, row in rows.items())

    def list_keys(self, size: int) -> Iterator[list[str]]:
        """Yield the keys of all sessions, `size` at a time."""
        raise NotImplementedError(f"{type(self).__name__} cannot list its sessions")

    def count_keys(self) -> int:
        """Return how many keys `list_keys` yields."""
        raise NotImplementedError(f"{type(self).__name__} cannot list its sessions")

    def is_conflict(self, error: StrategyUnavailable) -> bool:
        """Whether `in_turn` failed and wrote nothing because another request wrote."""
        return False

    def confirm(self, key: str, row: Row) -> None:
        """Called with a row that does not unseal. Raise `StrategyUnavailable` if the store does not
        hold it, because then the row was the reply to another command."""

    def header(self, expires: datetime, created: datetime) -> str:
        """Return text of `header_length` characters to seal along with the data."""
        return ""

    header_length: ClassVar[int] = 0

    async def aget(self, key: str) -> Row | None:
        raise NotImplementedError

    async def aadd(self, key: str, row: Row) -> bool:
        raise NotImplementedError

    async def aswap(self, key: str, held: Row, row: Row) -> bool:
        raise NotImplementedError

    async def amove(self, key: str, held: Row, marker: Row, new_key: str, row: Row) -> bool:
        raise NotImplementedError

    async def aremove(self, key: str) -> bool:
        raise NotImplementedError

    async def afind(self, owner: str) -> Mapping[str, Row]:
        raise NotImplementedError

    async def ain_turn(self, key: str, steps: Steps[T]) -> T:
        return await arun(self, steps)

    async def aconfirm(self, key: str, row: Row) -> None:
        pass

    def is_native(self) -> bool:
        """Whether async code can call the `a` twins here, and need not use a thread."""
        return type(self).aget is not SealedStrategy.aget and not within_sync_code()

    # -- the verbs of the contract -----------------------------------------------------------------

    def create_data(self, data: Data, expires: datetime) -> str:
        return self.insert(data, expires).session_id

    def read_data(self, session_id: str) -> Data | None:
        stored = self.load(session_id)
        return None if stored is None else stored.data

    def update_data(self, session_id: str, data: Data, expires: datetime) -> bool:
        return run(self, self._update(session_id, as_texts(data), expires))

    def delete_data(self, session_id: str) -> None:
        run(self, self._delete(session_id))

    def load(self, session_id: str) -> Stored | None:
        return run(self, self._load(session_id))

    def insert(self, data: Data | Texts, expires: datetime) -> Stored:
        return run(self, self._insert(as_texts(data), expires))

    def merge(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        return run(self, self._save(stored, as_texts(data), expires, rotating=False))

    def rotate(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        return run(self, self._save(stored, as_texts(data), expires, rotating=True))

    def end(self, stored: Stored) -> None:
        run(self, self._end(stored))

    def find_owned(self, owner: str) -> list[Owned]:
        return run(self, self._list_owned(owner))

    def end_owned(self, owner: str, references: Collection[str]) -> int:
        return run(self, self._end_owned(owner, references))

    def references(self, stored: Stored) -> Collection[str]:
        return run(self, self._list_keys(_key(stored)))

    async def acreate_data(self, data: Data, expires: datetime) -> str:
        return (await self.ainsert(data, expires)).session_id

    async def aread_data(self, session_id: str) -> Data | None:
        stored = await self.aload(session_id)
        return None if stored is None else stored.data

    async def aupdate_data(self, session_id: str, data: Data, expires: datetime) -> bool:
        return await self._arun(self._update(session_id, as_texts(data), expires))

    async def adelete_data(self, session_id: str) -> None:
        await self._arun(self._delete(session_id))

    async def aload(self, session_id: str) -> Stored | None:
        return await self._arun(self._load(session_id))

    async def ainsert(self, data: Data | Texts, expires: datetime) -> Stored:
        return await self._arun(self._insert(as_texts(data), expires))

    async def amerge(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        return await self._arun(self._save(stored, as_texts(data), expires, rotating=False))

    async def arotate(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        return await self._arun(self._save(stored, as_texts(data), expires, rotating=True))

    async def aend(self, stored: Stored) -> None:
        await self._arun(self._end(stored))

    async def afind_owned(self, owner: str) -> list[Owned]:
        return await self._arun(self._list_owned(owner))

    async def aend_owned(self, owner: str, references: Collection[str]) -> int:
        return await self._arun(self._end_owned(owner, references))

    async def areferences(self, stored: Stored) -> Collection[str]:
        return await self._arun(self._list_keys(_key(stored)))

    async def ais_undone(self, written: Stored | None) -> Callable[[], bool] | None:
        # Async code can be inside a transaction of Django's only within `async_to_sync`.
        return await sync_to_async(self.is_undone)(written) if within_sync_code() else None

    async def _arun(self, steps: Steps[T]) -> T:
        if self.is_native():
            return await arun(self, steps)
        return await sync_to_async(run)(self, steps)

    # -- the rules ---------------------------------------------------------------------------------

    def _load(self, session_id: str) -> Steps[Stored | None]:
        key = records.hashed(session_id)
        row = yield from call(SealedStrategy.get, key)
        return (yield from self._open(session_id, key, row))

    def _insert(self, texts: Texts, expires: datetime) -> Steps[Stored]:
        created = datetime.now(UTC)
        while True:
            session_id = records.new_id()
            key = records.hashed(session_id)
            row = self._seal(key, texts, expires, created)
            if (yield from call(SealedStrategy.add, key, row)):
                return Stored(session_id, texts, expires, created, Held(key, row))

    def _update(self, session_id: str, texts: Texts, expires: datetime) -> Steps[bool]:
        retries = _Retries()
        while (current := (yield from self._load(session_id))) is not None:
            if (yield from self._write(current, current, texts, expires, rotating=False)):
                return True
            yield from retries.wait()
        return False

    def _delete(self, session_id: str) -> Steps[None]:
        yield from call(SealedStrategy.remove, records.hashed(session_id))

    def _end(self, stored: Stored) -> Steps[None]:
        # An attacker who planted the key must not log out the user who has signed in since.
        yield from self._end_key(_key(stored), follows=USER in stored.texts)

    def _end_key(self, key: str | None, follows: bool) -> Steps[bool]:
        """Delete the session under this key, or under the one to which another request has rotated
        it if `follows`. Return whether there was one."""
        while key is not None:
            if (yield from call(SealedStrategy.remove, key)):
                return True
            row = (yield from call(SealedStrategy.get, key)) if follows else None
            key = self._followed(key, row)
        return False

    def _list_owned(self, owner: str) -> Steps[list[Owned]]:
        found: dict[str, Owned] = {}
        current: Row | None
        for key, row in (yield from call(SealedStrategy.find, owner)).items():
            current = row
            if records.is_moved(row.record):  # found at the very moment of its rotation
                key = (yield from self._list_keys(key, row))[-1]
                current = yield from call(SealedStrategy.get, key)
            stored = yield from self._open("", key, current)
            if stored is not None and owner in owners_of(stored.texts):
                held = cast(Held, stored.token).row
                found[key] = Owned(key, Texts(as_dict(stored.texts)), held.expires, held.created)
        return list(found.values())

    def _end_owned(self, owner: str, references: Collection[str]) -> Steps[int]:
        owned = {one.reference for one in (yield from self._list_owned(owner))}
        ended = 0
        for reference in filter(records.is_key, references):  # a client may send anything
            keys = [reference] if reference in owned else (yield from self._list_keys(reference))
            if keys[-1] in owned:
                ended += yield from self._end_key(keys[-1], follows=True)
        return ended

    def _list_keys(self, key: str, row: Row | None = None) -> Steps[list[str]]:
        """Return this key, and those to which other requests have rotated the session since."""
        keys = [key]
        row = row or (yield from call(SealedStrategy.get, key))
        while (new_key := self._followed(keys[-1], row)) is not None:
            keys.append(new_key)
            row = yield from call(SealedStrategy.get, new_key)
        return keys

    def _save(
        self, stored: Stored, texts: Texts, expires: datetime, rotating: bool
    ) -> Steps[Stored | None]:
        """Run `merge`, or `rotate` if `rotating`."""
        if stored.followed and _signs_in(stored, texts, rotating):
            return None
        current = stored
        for conflicts in range(self.conflicts_before_turn):
            if conflicts or not isinstance(stored.token, Held):
                reread = yield from self._reread(current, stored, texts, rotating)
                if reread is None:
                    return None
                current = reread
            if written := (yield from self._write(current, stored, texts, expires, rotating)):
                if conflicts:
                    tell(type(self), MERGED)
                return written
        retries = _Retries()
        while True:
            in_turn = self._save_in_turn(current, stored, texts, expires, rotating)
            try:
                return (yield from call(SealedStrategy.in_turn, _key(current), in_turn))
            except StrategyUnavailable as error:
                if not self.is_conflict(error):
                    raise
            yield from retries.wait()

    def _save_in_turn(
        self, current: Stored, stored: Stored, texts: Texts, expires: datetime, rotating: bool
    ) -> Steps[Stored | None]:
        retries = _Retries()
        while True:
            reread = yield from self._reread(current, stored, texts, rotating)
            if reread is None:
                return None
            current = reread
            if written := (yield from self._write(current, stored, texts, expires, rotating)):
                tell(type(self), MERGED)
                return written
            yield from retries.wait()

    def _write(
        self, current: Stored, stored: Stored, wanted: Texts, expires: datetime, rotating: bool
    ) -> Steps[Stored | None]:
        """Merge the changes from `stored` to `wanted` into `current`, then compare and set.

        ``None``: the row has changed or expired.
        """
        texts, expires = reconcile(stored, wanted, expires, current)
        held_texts = as_dict(current.texts)
        key, held = cast(Held, current.token)
        now = datetime.now(UTC)
        if held.expires <= now:
            return None
        # The absolute age counts from the sign-in, not from the first visit.
        created = now if brings_user(held_texts, texts) else held.created
        session_id = current.session_id
        held = _name_owners(held, held_texts)
        if rotating and not current.followed:
            session_id = records.new_id()
            new_key = records.hashed(session_id)
            row = self._seal(new_key, texts, expires, created)
            until = now + FOLLOWED_FOR
            marker = Row(records.moved(key, new_key, self.header(until, now)), until, now)
            written = yield from call(SealedStrategy.move, key, held, marker, new_key, row)
            key = new_key
        else:
            row = self._seal(key, texts, expires, created, held, held_texts)
            written = yield from call(SealedStrategy.swap, key, held, row)
        if not written:
            return None
        result = Stored(session_id, texts, expires, created, Held(key, row), current.followed)
        return _show(result, wanted)

    def _seal(
        self,
        key: str,
        texts: Texts,
        expires: datetime,
        created: datetime,
        held: Row | None = None,
        held_texts: Mapping[str, Any] | None = None,
    ) -> Row:
        header = self.header(expires, created)
        stays = held is not None and texts == held_texts and not header
        if held is not None and stays and records.is_current(key, held.record):
            return held._replace(expires=expires, created=created)
        return _name_owners(Row(records.seal(key, texts, header), expires, created), texts)

    def _reread(
        self, current: Stored, stored: Stored, texts: Texts, rotating: bool
    ) -> Steps[Stored | None]:
        """Read what the store holds now. If another request has rotated the session since this one
        loaded it, follow the markers to the new key."""
        key, followed = _key(current), current.followed
        row = yield from call(SealedStrategy.get, key)
        while row is not None and records.is_moved(row.record):
            if _signs_in(stored, texts, rotating) or not stored.may_follow:
                return None
            if (new_key := self._followed(key, row)) is None:
                return None
            key, followed = new_key, True
            row = yield from call(SealedStrategy.get, key)
        return (yield from self._open(stored.session_id, key, row, followed))

    def _followed(self, key: str, row: Row | None) -> str | None:
        """Return the new key if `row` is a valid marker that has not expired, else ``None``."""
        if row is None or not records.is_moved(row.record) or row.expires <= datetime.now(UTC):
            return None
        return records.follow(key, row.record, self.header_length)

    def _open(
        self, session_id: str, key: str, row: Row | None, followed: bool = False
    ) -> Steps[Stored | None]:
        if row is None or row.expires <= datetime.now(UTC) or records.is_moved(row.record):
            return None
        texts = records.unseal(key, row.record, self.header_length)
        if texts is None:
            yield from call(SealedStrategy.confirm, key, row)
            tell(type(self), UNREADABLE)
            return None
        return Stored(session_id, texts, row.expires, row.created, Held(key, row), followed)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    async def apause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Retries:
    """Pauses between attempts of a save that keeps meeting conflicts. Gives up after a while."""

    def __init__(self) -> None:
        self.conflicts, self.started = 0, time.monotonic()

    def wait(self) -> Steps[None]:
        self.conflicts += 1
        if time.monotonic() > self.started + PATIENCE:
            raise StrategyUnavailable(
                "Gave up saving: other requests kept changing this session"
                f" ({self.conflicts} attempts)."
            )
        # Randomly up to twice as long each time, so that the more requests save one session, the
        # fewer of them try at once.
        longest = min(0.001 * 2**self.conflicts, LONGEST_PAUSE)
        yield from call(SealedStrategy.pause, random.uniform(0, longest))  # noqa: S311


def _show(written: Stored, texts: Texts) -> Stored:
    """What a request may know of what was written: all of it, or only its own part where it has
    followed a rotation, because it may be of somebody who stole the old key."""
    if not written.followed:
        return written
    texts = Texts({name: written.texts.get(name) for name in texts if name in written.texts})
    key, row = cast(Held, written.token)
    return written._replace(texts=texts, token=Held(key, row._replace(record=NEVER)))


def _name_owners(row: Row, texts: Mapping[str, Any]) -> Row:
    if row.owner is not None or USER not in texts:  # databases keep the owner in a column
        return row
    owner, impersonator, *_ = [*owners_of(texts), None]
    return Row(row.record, row.expires, row.created, owner, impersonator)


def _key(stored: Stored) -> str:
    return stored.token.key if isinstance(stored.token, Held) else records.hashed(stored.session_id)


def _signs_in(stored: Stored, texts: Texts, rotating: bool) -> bool:
    """Whether this save signs a user in, which no shared session may do (ASVS 7.2.4)."""
    return brings_user(stored.texts, texts) or (rotating and USER not in stored.texts)
