"""Moves sessions from one store to another during live traffic.

`source` is another session engine (see `engines`) or one of our strategies. In step "accept" the
source keeps the sessions. In step "move" the first request that uses a session moves it to
`target`. Processes of both steps may run side by side. Processes of the previous release may run
beside those in step "accept".

**Each session is in one place.** An old key leads to one id in the target: a hash of the key, or
between our own strategies the id itself. If the target has no row under that id, the source has the
session. If the target has a row, that row decides, and the source's record is deleted unread.

**How a session moves.** A process inserts a claim under the new id, reads the old record, swaps the
claim for its data, and deletes the old record. Every request that finds a claim does the same from
there, and one of them succeeds. So a crash at any point loses nothing and duplicates nothing.

**No write is lost.** A save in step "accept" writes to the source, and then asks the target. If the
target has no row, the write came before the claim, and so before the old record was read. If the
target has a row, the session is moving, and the save repeats its changes there. In a transaction,
which other processes see when it commits, the save asks the target once more after the commit.

**A logout is final.** It deletes the old record and leaves a mark under the new id for as long as
sessions last. If a late save brings the old record back, the mark decides. A login with an old key
leaves a mark too.

While sessions move, async code runs in a thread.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.checks import CheckMessage, Info
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from .. import records
from ..conf import DEFAULTS
from ..hidden import Hidden
from ..lines import as_dict
from ..steps import run
from ..values import Data, Texts, same
from . import WrongOption, make_strategy
from .base import OldKey, Owned, SessionStrategy, Stored, as_texts
from .engines import Counts, EngineStrategy, Found, make_engine_strategy
from .health import examine
from .loops import within_sync_code
from .sealed import FOLLOWED_FOR, Row, SealedStrategy
from .transactions import is_in_transaction

ACCEPT, MOVE = "accept", "move"

# Stored in place of a record. Neither unseals, and only this module swaps them.
_CLAIM = "moving".ljust(records.MAC_LENGTH, "-")
_ENDED = records.MOVED
_ATTEMPTS = 100  # to end a session that others keep changing
_CLAIMED_FOR = timedelta(days=365)  # a crash may interrupt a move for a long time


class _Old(NamedTuple):
    """The token of a session that is still in the source."""

    stored: Stored


class _Place(NamedTuple):
    """Where the target stores a session."""

    session_id: str
    key: str


class _List(Protocol):
    """The sessions of a source, under its keys."""

    def count(self) -> int: ...
    def batches(self, size: int) -> Iterator[dict[str, Stored | Found]]: ...
    def load_all(self, known: Mapping[str, Stored]) -> dict[str, Stored]: ...
    def delete_all(self, keys: Sequence[str]) -> None: ...


class _SealedList:
    """A record is sealed for its key, so it can be read, and sealed anew, without its id."""

    def __init__(self, strategy: SealedStrategy) -> None:
        self.strategy = strategy

    def count(self) -> int:
        return self.strategy.count_keys()

    def batches(self, size: int) -> Iterator[dict[str, Stored | Found]]:
        for keys in self.strategy.list_keys(size):
            yield {key: self._read(key) for key in keys}

    def load_all(self, known: Mapping[str, Stored]) -> dict[str, Stored]:
        read = {key: self._read(key) for key in known}
        return {key: found for key, found in read.items() if isinstance(found, Stored)}

    def delete_all(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.strategy.remove(key)

    def _read(self, key: str) -> Stored | Found:
        row = self.strategy.get(key)
        if row is not None and row.expires <= datetime.now(UTC):
            return Found.EXPIRED
        return _open(self.strategy, _Place("", key), row) or Found.UNREADABLE


class MovingStrategy(SessionStrategy):
    """`source`: the dotted path of a session engine, or what ``SESSION_STRATEGY`` may be.

    `target`: what ``SESSION_STRATEGY`` will be. `step`: "accept", then "move".
    """

    atomic = True
    keeps_created = True

    def __init__(self, source: Any, target: Any, step: str) -> None:
        if step not in (ACCEPT, MOVE):
            raise WrongOption(
                f'"step" has to be "accept", and then "move": not {step!r}.',
                hint='SESSION_STRATEGY["OPTIONS"]["step"] = "accept"',
            )
        self.step: str = step
        self.source: EngineStrategy | SealedStrategy = _make_source(source)
        self.engine: EngineStrategy | None = (
            self.source if isinstance(self.source, EngineStrategy) else None
        )
        self.target: SealedStrategy = _make_target(target)
        self._target = target
        if _identify_store(self.source) == _identify_store(self.target):
            raise WrongOption(
                '"source" and "target" are one store, so there is nothing to move.',
                hint=f"SESSION_STRATEGY = {target!r}",
            )
        # Other engines do not know whose a session is.
        self.finds_owners: bool = self.source.finds_owners and self.target.finds_owners

    # -- what the engine calls ---------------------------------------------------------------------

    def adopt(self, key: str) -> OldKey | None:
        return self.source.adopt(key)

    def load(self, session_id: str) -> Stored | None:
        if self._was_always_ours(session_id):
            return self.target.load(session_id)
        place = _find_place(session_id)
        row = self.target.get(place.key)
        if row is None:
            old = self.source.load(session_id)
            if old is not None:
                if self.step == ACCEPT:
                    return old._replace(token=_Old(old))
                self.target.add(place.key, _make_mark(_CLAIM, _CLAIMED_FOR))
            # Look again: the session may have moved meanwhile.
            row = self.target.get(place.key)
        return None if row is None else self._finish_move(session_id, place, row)

    def insert(self, data: Data | Texts, expires: datetime) -> Stored:
        if self.step == MOVE:
            return self.target.insert(data, expires)
        stored = self.source.insert(data, expires)
        return stored._replace(token=_Old(stored))

    def merge(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        texts, token = as_texts(data), stored.token
        if not isinstance(token, _Old):
            written = None
            if not isinstance(stored.session_id, OldKey):
                written = self.target.merge(stored, texts, expires)
            if written is not None or self._was_always_ours(stored.session_id):
                return written
            again = self._find_again(stored)
            if again is None:
                return None
            token = again.token
            if not isinstance(token, _Old):
                return self.target.merge(again, texts, expires)
        return self._merge_old(token.stored, texts, expires)

    def rotate(self, stored: Stored, data: Data | Texts, expires: datetime) -> Stored | None:
        texts = as_texts(data)
        if isinstance(stored.token, _Old) or isinstance(stored.session_id, OldKey):
            again = self._find_again(stored)
            if again is None:
                return None
            if isinstance(again.token, _Old):
                return self._rotate_old(again.token.stored, texts, expires)
            stored = again
        rotated = self.target.rotate(stored, texts, expires)
        if rotated is not None and not self._was_always_ours(stored.session_id):
            self.source.delete_data(stored.session_id)  # a crash may have left it
        return rotated

    def delete_data(self, session_id: str) -> None:
        place = _find_place(session_id)
        # A key that a client made up must leave no mark.
        if self.target.get(place.key) is not None:
            self._end(session_id, place)
        elif not self._was_always_ours(session_id) and self.source.load(session_id) is not None:
            self._end(session_id, place)

    def end(self, stored: Stored) -> None:
        session_id, place = stored.session_id, _find_place(stored.session_id)
        if isinstance(stored.token, _Old):
            self.source.end(stored.token.stored)
            stored = stored._replace(token=None)
        self._end(session_id, place)
        # The target follows a rotation.
        self.target.end(stored._replace(session_id=place.session_id))

    def is_undone(self, written: Stored | None) -> Callable[[], bool] | None:
        strategies: list[SessionStrategy] = [self.target, self.source]  # both, after a logout
        if written is not None:
            strategies = [self.source if isinstance(written.token, _Old) else self.target]
        asked = [each.is_undone(written) for each in strategies]
        answers = [is_undone for is_undone in asked if is_undone is not None]
        return (lambda: any(answer() for answer in answers)) if answers else None

    async def ais_undone(self, written: Stored | None) -> Callable[[], bool] | None:
        return await sync_to_async(self.is_undone)(written) if within_sync_code() else None

    def find_owned(self, owner: str) -> list[Owned]:
        # The source first, because a session may move from it to the target meanwhile.
        old = {one.reference: one for one in self.source.find_owned(owner)}
        new = {one.reference: one for one in self.target.find_owned(owner)}
        return [*new.values(), *(old[key] for key in old.keys() - new if self._is_unmoved(key))]

    def end_owned(self, owner: str, references: Collection[str]) -> int:
        owned = {one.reference for one in self.find_owned(owner)}
        return sum(self._end_key(owner, key, key in owned) for key in references)

    def references(self, stored: Stored) -> Collection[str]:
        key = _find_place(stored.session_id).key
        old = [key]
        if isinstance(self.source, SealedStrategy):
            old = run(self.source, self.source._list_keys(key))
        return {new for each in old for new in run(self.target, self.target._list_keys(each))}

    def clear_expired(self, batch_size: int) -> Iterator[int]:
        for strategy in (self.target, self.source):
            yield from strategy.clear_expired(batch_size)

    def count_expired(self) -> int:
        return self.target.count_expired() + self.source.count_expired()

    def check(self) -> Iterable[CheckMessage]:
        yield from self.source.check()
        yield from self.target.check()
        if self.step == ACCEPT:
            yield Info(
                "Old and new session keys are understood, and no session moves yet.",
                hint='SESSION_STRATEGY["OPTIONS"]["step"] = "move"  # when every process does so',
                id="strategy_sessions.I002",
            )
        else:
            yield Info(
                "Sessions are moving.",
                hint=f"SESSION_STRATEGY = {self._target!r}"
                "  # when `manage.py movesessions` has moved the rest",
                id="strategy_sessions.I003",
            )

    def examine(self, databases: Collection[str] | None = None) -> Iterable[CheckMessage]:
        yield from examine(self.source, databases)
        yield from examine(self.target, databases)

    # -- moving the rest ---------------------------------------------------------------------------

    def count(self) -> int:
        """Return how many sessions the source lists."""
        return self._list_source().count()

    def move_all(self, batch_size: int, dry_run: bool = False) -> Iterator[Counts]:
        """Move every session that the source lists. Yield the counts of each batch."""
        source = self._list_source()
        for batch in source.batches(batch_size):
            counts = Counts(found for found in batch.values() if isinstance(found, Found))
            live = {key: found for key, found in batch.items() if isinstance(found, Stored)}
            counts[Found.MOVED] = len(live) if dry_run or not live else self._move(source, live)
            counts[Found.EXPIRED] += len(live) - counts[Found.MOVED]  # ended meanwhile
            yield counts

    def _list_source(self) -> _List:
        if isinstance(self.source, SealedStrategy):
            return _SealedList(self.source)
        if self.engine is None or self.engine.model is None:
            raise NotImplementedError
        return self.engine

    def _move(self, source: _List, known: Mapping[str, Stored]) -> int:
        """Move a batch as `_finish_move` moves one session. Return how many the target has now."""
        # Our own strategies list keys, because they do not know the ids.
        places = {
            key: _find_place(OldKey(key)) if self.engine else _Place("", key) for key in known
        }
        claim = _make_mark(_CLAIM, _CLAIMED_FOR)
        self.target.add_all({place.key: claim for place in places.values()})
        olds = source.load_all(known)
        rows = {places[key].key: self._make_row(places[key], old) for key, old in olds.items()}
        count = self.target.swap_all(claim, rows) if rows else 0
        if count < len(known):  # some had moved or ended before, or have since
            count = 0
            for key, place in places.items():
                row = self.target.get(place.key)
                count += self._finish_move(OldKey(key), place, row) is not None
        source.delete_all([*known])
        return count

    # -- the move of one ---------------------------------------------------------------------------

    def _finish_move(self, session_id: str, place: _Place, row: Row | None) -> Stored | None:
        """Return what the target has, after turning a claim into a session."""
        moves = False
        while row is not None and row.record == _CLAIM:
            moves = True
            old = self._load_old(session_id, place)
            new = _make_end_mark() if old is None else self._make_row(place, old)
            swapped = self.target.swap(place.key, row, new)
            row = new if swapped else self.target.get(place.key)
        if moves or session_id != place.session_id:
            self._drop_old(session_id, place)
        return _open(self.target, place, row)

    def _make_row(self, place: _Place, old: Stored) -> Row:
        now = datetime.now(UTC)
        return self.target._seal(
            place.key, Texts(as_dict(old.texts)), old.expires or now, old.created or now
        )

    def _load_old(self, session_id: str, place: _Place) -> Stored | None:
        if isinstance(self.source, SealedStrategy):
            return _open(self.source, place, self.source.get(place.key))
        return self.source.load(session_id)

    def _drop_old(self, session_id: str, place: _Place) -> None:
        """Delete the old record once no transaction can undo the move any more."""
        drop: Callable[[], object] = partial(self.source.delete_data, session_id)
        if isinstance(self.source, SealedStrategy):
            drop = partial(self.source.remove, place.key)
        _run_when_final(self.target, drop)

    # -- writes in step "accept" -------------------------------------------------------------------

    def _merge_old(self, old: Stored, texts: Texts, expires: datetime) -> Stored | None:
        written = self.source.merge(old, texts, expires)
        place = _find_place(old.session_id)
        row = self.target.get(place.key)
        if row is not None:
            return self._merge_into_target(old, written, texts, expires, row)
        if written is None:
            return None

        def look_again() -> None:
            if (row := self.target.get(place.key)) is not None:
                self._merge_into_target(old, written, texts, expires, row)

        # A process that moves the session sees no write that has not been committed.
        if is_in_transaction(_find_alias(self.source)):
            _run_when_final(self.source, look_again)
        return written._replace(token=_Old(written))

    def _merge_into_target(
        self, old: Stored, written: Stored | None, texts: Texts, expires: datetime, row: Row
    ) -> Stored | None:
        """Repeat a save in the target. `written`: what the source holds after it, if it took it."""
        moved = self._finish_move(old.session_id, _find_place(old.session_id), row)
        if moved is None:
            return None
        if written is None:
            return self.target.merge(_rebase(moved, old), texts, expires)
        return self.target.merge(
            moved, _apply_changes(old.texts, written.texts, moved.texts), expires
        )

    def _rotate_old(self, old: Stored, texts: Texts, expires: datetime) -> Stored | None:
        rotated = self.source.rotate(old, texts, expires)
        place = _find_place(old.session_id)
        row = self.target.get(place.key)
        if rotated is None:
            moved = self._finish_move(old.session_id, place, row)
            return moved and self.target.rotate(_rebase(moved, old), texts, expires)
        # Between our own strategies the source has left a marker, and late saves may follow it.
        if self.engine or row is not None:
            _run_when_final(self.source, partial(self._end, old.session_id, place))
        return rotated._replace(token=_Old(rotated))

    def _find_again(self, stored: Stored) -> Stored | None:
        """Return the session from where it is now, with the texts that this request had loaded. It
        may have moved since, or a rollback may have undone its move."""
        now = self.load(stored.session_id)
        if now is None:
            return None
        if isinstance(now.token, _Old):
            old = now.token.stored._replace(texts=stored.texts)
            return now._replace(texts=stored.texts, token=_Old(old))
        return _rebase(now, stored)

    # -- the end of one ----------------------------------------------------------------------------

    def _end(self, session_id: str, place: _Place) -> None:
        is_old = not self._was_always_ours(session_id)
        if is_old:
            self.source.delete_data(session_id)  # first, so that no other request moves it
        if not any(self._leave_mark(place) for _ in range(_ATTEMPTS)):
            self.target.delete_data(place.session_id)
        if is_old:
            self.source.delete_data(session_id)  # a late save may have brought it back

    def _is_unmoved(self, key: str) -> bool:
        row = self.target.get(key)
        return row is None or row.record == _CLAIM

    def _end_key(self, owner: str, key: str, owned: bool) -> bool:
        """End an owner's session as `_end` does, by its key."""
        ended = self.source.end_owned(owner, [key]) + self.target.end_owned(owner, [key])
        if ended or owned:
            place = _Place("", key)
            any(self._leave_mark(place) for _ in range(_ATTEMPTS))
            # A move that was under way may have been finished, and the session rotated.
            ended += self.target.end_owned(owner, [key]) + self.source.end_owned(owner, [key])
        return bool(ended)

    def _leave_mark(self, place: _Place) -> bool:
        row = self.target.get(place.key)
        if row is None:
            return self.target.add(place.key, _make_end_mark())
        if records.is_moved(row.record) or row.expires <= datetime.now(UTC):
            return True
        return self.target.swap(place.key, row, _make_end_mark())

    def _was_always_ours(self, session_id: str) -> bool:
        """Return whether only the target can know this id."""
        return self.engine is not None and not isinstance(session_id, OldKey)


def _make_source(source: Any) -> EngineStrategy | SealedStrategy:
    missing = None
    if isinstance(source, str):
        try:
            if engine := make_engine_strategy(source):
                return engine
        except ImportError as error:
            missing = error
    try:
        return _make_sealed("source", source)
    except ImproperlyConfigured as error:
        raise WrongOption(
            f'"source" is neither a session engine nor one of our strategies: {source!r}.',
            hint='SESSION_STRATEGY["OPTIONS"]["source"] = "django.contrib.sessions.backends.db"'
            "  # what SESSION_ENGINE was",
        ) from (missing or error)


def _make_target(target: Any) -> SealedStrategy:
    try:
        return _make_sealed("target", target)
    except ImproperlyConfigured as error:
        raise WrongOption(
            f"{error}",
            hint='SESSION_STRATEGY["OPTIONS"]["target"] ='
            f' "{DEFAULTS["SESSION_STRATEGY"]}"  # what SESSION_STRATEGY will be',
        ) from error.__cause__


def _make_sealed(where: str, setting: Any) -> SealedStrategy:
    strategy = make_strategy(setting, f'"{where}"')
    if not isinstance(strategy, SealedStrategy):
        raise ImproperlyConfigured(
            f'"{where}": {type(strategy).__name__} is no SealedStrategy, so its sessions cannot'
            " be moved."
        )
    return strategy


def _find_alias(strategy: SessionStrategy) -> str | None:
    """Return which of ``DATABASES`` has the sessions, if one has."""
    return getattr(strategy, "alias", None)


def _run_when_final(strategy: SessionStrategy, act: Callable[[], object]) -> None:
    """Run `act` once no transaction can undo what `strategy` has written."""
    if (alias := _find_alias(strategy)) is None:
        act()
    else:
        transaction.on_commit(act, using=alias)


def _identify_store(strategy: SessionStrategy) -> object:
    """Return what identifies a store."""
    if isinstance(strategy, SealedStrategy):
        if (alias := _find_alias(strategy)) is not None:
            return settings.DATABASES[alias].get("HOST"), settings.DATABASES[alias].get("NAME")
        if (clients := getattr(strategy, "clients", None)) is not None:
            location = settings.CACHES[clients.alias].get("LOCATION")
            return str(location), getattr(strategy, "prefix", None)
    return strategy


def _find_place(session_id: str) -> _Place:
    if isinstance(session_id, OldKey):
        digest = sha256(f"django_strategy_sessions.moved:{session_id}".encode()).digest()
        session_id = Hidden(urlsafe_b64encode(digest)[:22].decode())
    return _Place(session_id, records.hashed(session_id))


def _open(strategy: SealedStrategy, place: _Place, row: Row | None) -> Stored | None:
    return run(strategy, strategy._open(place.session_id, place.key, row))


def _make_mark(record: str, lasts: timedelta) -> Row:
    now = datetime.now(UTC)
    return Row(record, now + lasts, now)


def _make_end_mark() -> Row:
    return _make_mark(_ENDED, max(timedelta(seconds=settings.SESSION_COOKIE_AGE), FOLLOWED_FOR))


def _rebase(now: Stored, stored: Stored) -> Stored:
    """Return `now` with the texts that a request had loaded. The target will read it again."""
    return now._replace(texts=stored.texts, token=None)


def _apply_changes(base: Any, ours: Any, theirs: Any) -> Texts:
    """Return `theirs` with the changes from `base` to `ours`. The source took those changes, so a
    text in `theirs` that differs from `base` was copied with them, or is newer."""
    texts = Texts(as_dict(theirs))
    for name in {*base, *ours}:
        was, now = base.get(name), ours.get(name)
        if _are_alike(theirs.get(name), was) and not _are_alike(now, was):
            if now is None:
                del texts[name]
            else:
                texts[name] = now
    return texts


def _are_alike(one: str | None, another: str | None) -> bool:
    return one is another or (one is not None and another is not None and same(one, another))
