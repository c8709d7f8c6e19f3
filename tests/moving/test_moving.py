"""What one visitor sees of the move, whichever release answers."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import login, logout
from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpResponse

from django_strategy_sessions import CannotListSessions, sessions_of
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.signing import unsign
from django_strategy_sessions.strategies import get_strategy
from django_strategy_sessions.strategies.base import OldKey
from django_strategy_sessions.strategies.engines import EngineStrategy
from django_strategy_sessions.strategies.moving import _CLAIM, MovingStrategy, _find_place
from django_strategy_sessions.testing import later

from ..conftest import DATABASE, DJANGOS, POSTGRES, REDIS
from ..postgres.conftest import in_thread, wait_until
from .conftest import BACKENDS, SOURCES, Router, Site

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

SET = ("update", {"cart": ["tea"]})
CART = ("get", "cart")
except_signed_cookies = pytest.mark.parametrize(
    "source", [f"{BACKENDS}.{name}" for name in SOURCES if name != "signed_cookies"]
)


def name_of_user(request):
    return HttpResponse(request.user.get_username())


def log_in(user):
    def log_in(request):
        login(request, user, "django.contrib.auth.backends.ModelBackend")

    return log_in


def cart(release, visitor):
    return release.ask(visitor, CART).seen[0]


# -- the way there ---------------------------------------------------------------------------------


def test_a_session_lives_through_every_release(site, visitor, user):
    site.old.ask(visitor, log_in(user), SET)
    old_key = visitor.key
    assert cart(site.accept, visitor) == ["tea"]
    assert visitor.key == old_key
    site.accept.ask(visitor, ("update", {"accepted": True}))
    assert site.old.ask(visitor, ("get", "accepted")).seen == [True]
    before_move = visitor.key
    assert site.move.ask(visitor, name_of_user).content == b"ann"
    assert visitor.key != before_move
    assert len(visitor.key) == 40
    moved_key = visitor.key
    site.accept.ask(visitor, ("update", {"again": True}))
    assert site.move.ask(visitor, ("get", "again"), ("get", "accepted"), CART).seen == [
        True,
        True,
        ["tea"],
    ]
    assert site.done.ask(visitor, ("get", "again"), name_of_user).content == b"ann"
    assert visitor.key == moved_key


def test_a_request_that_looks_at_no_session_moves_none(site, visitor):
    site.old.ask(visitor, SET)
    key = visitor.key
    answer = site.move.ask(visitor)
    assert visitor.key == key
    assert not answer.cookies


def test_requests_with_the_old_cookie_end_up_in_one_session(site, visitor):
    site.old.ask(visitor, SET)
    tabs = [visitor.twin() for _ in range(4)]
    for number, tab in enumerate(tabs):
        release = site.accept if number % 2 else site.move
        release.ask(tab, ("update", {f"tab {number}": number}))
    assert len({tab.key for tab in tabs}) == 1
    seen = site.done.ask(tabs[0], *(("get", f"tab {number}") for number in range(4))).seen
    assert seen == [0, 1, 2, 3]


def test_a_save_that_began_before_the_move_is_kept(site, visitor):
    site.old.ask(visitor, SET)
    other = visitor.twin()

    def move(request):
        site.move.ask(other, ("update", {"theirs": 1}))

    site.accept.ask(visitor, CART, move, ("update", {"mine": 2}))
    assert visitor.key == other.key
    assert site.done.ask(visitor, ("get", "theirs"), ("get", "mine"), CART).seen == [1, 2, ["tea"]]


def test_a_move_that_a_crash_interrupted_goes_on(site, visitor, monkeypatch):
    site.old.ask(visitor, SET)
    with site.move:
        strategy = get_strategy()
        with monkeypatch.context() as patched:
            patched.setattr(strategy.target, "swap", None)  # the process dies here
            session = SessionStore(visitor.key)
            with pytest.raises(TypeError):
                session.get("cart")
    site.accept.ask(visitor, ("update", {"more": 1}))
    assert site.move.ask(visitor, CART, ("get", "more")).seen == [["tea"], 1]


@except_signed_cookies
def test_an_old_record_that_a_crash_left_is_deleted(site, visitor, monkeypatch):
    site.old.ask(visitor, SET)
    with site.move:
        strategy = get_strategy()
        with monkeypatch.context() as patched:
            patched.setattr(strategy.source, "delete_data", None)
            with pytest.raises(TypeError):
                SessionStore(visitor.key).get("cart")
    assert cart(site.old, visitor.twin()) == ["tea"]
    other = visitor.twin()
    assert cart(site.move, visitor) == ["tea"]
    assert cart(site.old, other) is None


@pytest.mark.parametrize("step", ["accept", "move"])
def test_a_session_that_moves_between_two_lookups_is_found(source, stores, step, monkeypatch):
    first, other = (MovingStrategy(source, DATABASE, each) for each in (step, "move"))
    old_key = first.source.insert({"cart": ["tea"]}, later()).session_id
    load = first.source.load

    def move_first(session_id):
        monkeypatch.undo()
        other.load(session_id)
        return load(session_id)

    monkeypatch.setattr(first.source, "load", move_first)
    assert first.load(old_key).data == {"cart": ["tea"]}


def test_what_the_move_writes_is_sealed_and_has_an_id_of_ours(visitor, stores):
    site = Site(f"{BACKENDS}.db", DATABASE)
    site.old.ask(visitor, SET)
    old_key = visitor.key
    cart(site.move, visitor)
    assert len(unsign(visitor.key, "sessionid")) == 22
    assert old_key not in visitor.key
    assert not Session.objects.exists()


# -- logins and logouts ----------------------------------------------------------------------------


@except_signed_cookies
@pytest.mark.parametrize("phase", ["old", "accept", "move"])
def test_a_login_ends_the_old_key(site, visitor, user, phase):
    site.old.ask(visitor, SET)
    known = visitor.twin()
    release = getattr(site, phase)
    release.ask(visitor, log_in(user))
    assert visitor.key != known.key
    for each in (site.old, site.accept, site.move):
        assert cart(each, known.twin()) is None
    assert site.move.ask(visitor, CART, name_of_user).content == b"ann"


@except_signed_cookies
def test_a_login_ends_the_old_key_of_a_session_that_moves_meanwhile(
    site, visitor, user, monkeypatch
):
    site.old.ask(visitor, SET)
    known = visitor.twin()
    rotate = EngineStrategy.rotate

    def move_first(*given):
        site.move.ask(known, ("update", {"theirs": 1}))
        return rotate(*given)

    monkeypatch.setattr(EngineStrategy, "rotate", move_first)
    site.accept.ask(visitor, log_in(user))
    assert cart(site.accept, known.twin()) is None
    seen = site.move.ask(visitor, CART, ("get", "theirs"), ("has_key", "_auth_user_id")).seen
    assert seen == [["tea"], 1, True]


@except_signed_cookies
@pytest.mark.parametrize("phase", ["old", "accept", "move"])
def test_a_logout_ends_old_and_new_key(site, visitor, user, phase):
    site.old.ask(visitor, log_in(user), SET)
    old = visitor.twin()
    if phase != "old":
        cart(site.move, visitor)
    new = visitor.twin()
    getattr(site, phase).ask(visitor, logout)
    for known in (old, new):
        for each in (site.accept, site.move):
            assert cart(each, known.twin()) is None
    assert cart(site.old, old.twin()) is None


@except_signed_cookies
@pytest.mark.parametrize("where", ["accept", "move"])
@pytest.mark.parametrize("by", ["old key", "new key"])
def test_a_late_save_undoes_no_logout(site, visitor, user, where, by):
    """One that has loaded the session before it moved, and saves when it has been ended."""
    site.old.ask(visitor, log_in(user), SET)
    late, old = visitor.twin(), visitor.twin()

    def log_out(request):
        if by == "new key":
            cart(site.move, visitor)
        getattr(site, where).ask(visitor, logout)

    answer = site.accept.ask(late, CART, log_out, ("update", {"late": 1}))
    assert answer.status_code == 400
    for known in (old, late):
        assert cart(site.accept, known.twin()) is None
        assert cart(site.move, known.twin()) is None


@pytest.mark.parametrize("source", [f"{BACKENDS}.cache"])
def test_a_record_that_comes_back_after_the_logout_is_no_session(site, visitor, user):
    """Django's cache engine looks whether a key is there, and then writes."""
    site.old.ask(visitor, log_in(user), SET)
    late, old = visitor.twin(), visitor.twin()
    with site.old:
        from django.contrib.sessions.backends.cache import SessionStore as Old

        session = Old(late.key)
        data = dict(session.items())
        name = session.cache_key
    site.accept.ask(visitor, logout)
    session._cache.set(name, data)
    assert cart(site.accept, old.twin()) is None
    session._cache.set(name, data)
    assert cart(site.move, old.twin()) is None
    assert session._cache.get(name) is None


def test_the_signed_cookie_that_logged_out_is_no_session(visitor, user, stores):
    site = Site(f"{BACKENDS}.signed_cookies", DATABASE)
    site.old.ask(visitor, log_in(user), SET)
    old = visitor.twin()
    site.accept.ask(visitor, logout)
    assert cart(site.accept, old.twin()) is None
    assert cart(site.move, old.twin()) is None


# -- ages ------------------------------------------------------------------------------------------


def set_expiry(value):
    def set_expiry(request):
        request.session.set_expiry(value)

    return set_expiry


def expiry_of(release, visitor):
    with release:
        return SessionStore(visitor.key)._state.stored


@pytest.mark.parametrize("name", ["db", "cached_db", "cache", "file", "signed_cookies"])
@pytest.mark.parametrize("age", [None, 0, 600, timedelta(days=3)], ids=str)
def test_the_age_is_kept(visitor, stores, name, age, settings):
    site = Site(f"{BACKENDS}.{name}", DATABASE)
    site.old.ask(visitor, SET, set_expiry(age))
    was = visitor.cookies["sessionid"]["max-age"]
    wanted = datetime.now(UTC) + (
        age if isinstance(age, timedelta) else timedelta(seconds=age or settings.SESSION_COOKIE_AGE)
    )
    if name == "signed_cookies":  # which knows one age
        wanted = datetime.now(UTC) + timedelta(seconds=settings.SESSION_COOKIE_AGE)
    cart(site.move, visitor)
    with site.done:
        session = SessionStore(visitor.key)
        session.get("cart")
        stored = session._state.stored
    assert abs(stored.expires - wanted) < timedelta(seconds=10)
    assert abs(stored.created - datetime.now(UTC)) < timedelta(seconds=10)
    now = visitor.cookies["sessionid"]["max-age"]
    if was == "":
        assert now == ""
    elif name != "signed_cookies":
        assert abs(int(now) - int(was)) < 10


@pytest.mark.parametrize("middleware", [DJANGOS, "ours"])
def test_a_move_renews_nothing(visitor, stores, middleware):
    more = {} if middleware == "ours" else {"middleware": middleware}
    site = Site(f"{BACKENDS}.db", DATABASE, **more)
    site.old.ask(visitor, SET)
    half = datetime.now(UTC) + timedelta(hours=5)
    Session.objects.update(expire_date=half)
    cart(site.move, visitor)
    with site.done:
        session = SessionStore(visitor.key)
        session.get("cart")
        assert session._state.stored.expires == half
    assert abs(int(visitor.cookies["sessionid"]["max-age"]) - 5 * 3600) < 10


def test_an_expired_session_does_not_move(visitor, stores):
    site = Site(f"{BACKENDS}.db", DATABASE)
    site.old.ask(visitor, SET)
    Session.objects.update(expire_date=datetime.now(UTC))
    assert cart(site.accept, visitor.twin()) is None
    assert cart(site.move, visitor.twin()) is None


@pytest.mark.parametrize("use_tz", [True, False])
def test_a_date_that_one_release_sets_the_other_understands(visitor, stores, use_tz):
    site = Site(f"{BACKENDS}.db", DATABASE, USE_TZ=use_tz)
    site.accept.ask(visitor, SET, set_expiry(timedelta(days=3)))
    (age,) = site.old.ask(visitor, ("get_expiry_age",)).seen
    assert abs(age - 3 * 86400) < 10
    site.old.ask(visitor, set_expiry(timedelta(days=2)))
    (age,) = site.accept.ask(visitor, ("get_expiry_age",)).seen
    assert abs(age - 2 * 86400) < 10


# -- what cannot be read ---------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["accept", "move"])
@pytest.mark.parametrize("damage", ["corrupt", "another secret"])
def test_an_unreadable_record_is_no_session_and_stays(visitor, stores, phase, damage, caplog):
    site = Site(f"{BACKENDS}.db", DATABASE)
    if damage == "corrupt":
        site.old.ask(visitor, SET)
        Session.objects.update(session_data="what is this")
    else:
        other = Site(f"{BACKENDS}.db", DATABASE, SECRET_KEY="another secret" * 4)
        other.old.ask(visitor, SET)
    (text,) = Session.objects.values_list("session_data", flat=True)
    answer = getattr(site, phase).ask(visitor.twin(), CART)
    assert (answer.status_code, answer.seen) == (200, [None])
    assert Session.objects.get().session_data == text
    assert "cannot be read" in caplog.text
    assert visitor.key not in caplog.text
    assert text not in caplog.text


def test_an_empty_session_is_a_session(visitor, stores):
    site = Site(f"{BACKENDS}.db", DATABASE)
    site.old.ask(visitor, ("create",))
    key = visitor.key
    assert site.accept.ask(visitor.twin(), ("get", "a"), ("exists", key)).seen == [None, True]


# -- keys that nobody issued -----------------------------------------------------------------------

FORGED = {
    "another shape": "A" * 32,
    "too short": "a" * 31,
    "a newline": "a" * 32 + "\n",
    "of our shape": f"{'a' * 22}.{'a' * 17}",
    "unsigned": "eyJhIjoxfQ:1abcde:" + "x" * 43,
}


@pytest.mark.parametrize("key", FORGED.values(), ids=FORGED)
def test_only_keys_of_the_old_shape_reach_the_old_store(
    source, stores, key, django_assert_num_queries
):
    site = Site(source, DATABASE)
    for release in (site.accept, site.move):
        with release, django_assert_num_queries(0):
            session = SessionStore(key)
            assert session.get("a") is None
            session.flush()


def test_a_forged_key_of_the_old_shape_leaves_nothing(source, target, stores):
    site = Site(source, target)
    for release in (site.accept, site.move):
        with release:
            session = SessionStore("a" * 32)
            assert session.get("a") is None
            session.flush()
            SessionStore("a" * 32).delete()
            assert get_strategy().target.get(_find_place(OldKey("a" * 32)).key) is None
    assert not Session.objects.exists()


# -- between our own strategies --------------------------------------------------------------------

PAIRS = {
    "database to redis": (DATABASE, REDIS),
    "redis to postgres": (REDIS, POSTGRES),
    "postgres to redis": (POSTGRES, REDIS),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_between_our_strategies_cookie_and_dates_stay(visitor, user, pair):
    site = Site(*pair)
    site.old.ask(visitor, log_in(user), SET)
    key = visitor.key
    with site.old:
        before = SessionStore(key)
        before.get("cart")
    assert cart(site.accept, visitor) == ["tea"]
    assert cart(site.old, visitor) == ["tea"]
    answer = site.move.ask(visitor, name_of_user)
    assert answer.content == b"ann"
    assert not answer.cookies
    assert visitor.key == key
    with site.done:
        after = SessionStore(key)
        assert after.get("cart") == ["tea"]
        assert after._state.stored.expires == before._state.stored.expires
        assert after._state.stored.created == before._state.stored.created
    assert cart(site.accept, visitor) == ["tea"]
    assert cart(site.old, visitor.twin()) is None


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("phase", ["accept", "move"])
def test_between_our_strategies_the_sessions_of_a_user_are_found_and_end(visitor, pair, phase):
    site, owner = Site(*pair), f"user-{uuid.uuid4()}"
    data = {"_auth_user_id": owner}
    with site.old:
        unmoved, moved = (get_strategy().insert(data, later()) for _ in range(2))
    with site.move:
        moved = get_strategy().load(moved.session_id)
    with getattr(site, phase):
        strategy = get_strategy()
        new = strategy.insert(data, later())
        owned = strategy.find_owned(owner)
        assert len(owned) == 3
        assert next(iter(strategy.references(new))) in {one.reference for one in owned}
        late = strategy.load(unmoved.session_id)
        rotated = strategy.rotate(moved, data, later())
        assert len(strategy.find_owned(owner)) == 3
        assert strategy.end_owned("another", [one.reference for one in owned]) == 0
        assert strategy.end_owned(owner, [one.reference for one in owned]) == 3
        assert strategy.find_owned(owner) == []
        assert strategy.merge(late, {**data, "late": 1}, later()) is None
    for release in (site.old, site.accept, site.move):
        with release:
            for stored in (unmoved, moved, rotated, new):
                assert get_strategy().load(stored.session_id) is None


def test_other_engines_cannot_find_the_sessions_of_a_user(visitor, user, stores):
    site = Site(f"{BACKENDS}.db", DATABASE)
    with site.accept, pytest.raises(CannotListSessions, match="MovingStrategy cannot"):
        sessions_of(user)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("phase", ["accept", "move"])
def test_between_our_strategies_logins_and_logouts_are_final(visitor, user, pair, phase):
    site = Site(*pair)
    site.old.ask(visitor, SET)
    anonymous = visitor.twin()
    release = getattr(site, phase)
    release.ask(visitor, log_in(user))
    for each in (site.old, site.accept, site.move):
        assert cart(each, anonymous.twin()) is None
    known = visitor.twin()
    late = visitor.twin()

    def log_out(request):
        cart(site.move, visitor)
        release.ask(visitor, logout)

    answer = site.accept.ask(late, CART, log_out, ("update", {"late": 1}))
    assert answer.status_code == 400
    for each in (site.old, site.accept, site.move):
        assert cart(each, known.twin()) is None


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_between_our_strategies_a_save_that_began_before_the_move_is_kept(visitor, pair):
    site = Site(*pair)
    site.old.ask(visitor, SET)
    other = visitor.twin()

    def move(request):
        site.move.ask(other, ("update", {"theirs": 1}))

    site.accept.ask(visitor, CART, move, ("update", {"mine": 2}))
    assert site.done.ask(visitor, ("get", "theirs"), ("get", "mine"), CART).seen == [1, 2, ["tea"]]


@pytest.mark.parametrize(("source", "target"), PAIRS.values(), ids=PAIRS)
def test_an_old_record_of_ours_that_a_crash_left_ends_with_a_login(source, target, monkeypatch):
    """The marker of the rotation hides it for a minute only."""
    move = MovingStrategy(source, target, "move")
    session_id = move.source.insert({"cart": ["tea"]}, later()).session_id
    with monkeypatch.context() as patched:
        patched.setattr(move, "_drop_old", lambda *given: None)
        stored = move.load(session_id)
    assert move.source.load(session_id) is not None
    assert move.rotate(stored, {"cart": ["tea"], "_auth_user_id": "1"}, later()) is not None
    assert move.source.load(session_id) is None


# -- transactions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["db", "cache"])
@pytest.mark.parametrize("fails", [True, False], ids=["500", "rolled back"])
def test_a_transaction_that_is_rolled_back_takes_the_move_back(visitor, stores, name, fails):
    site = Site(f"{BACKENDS}.{name}", DATABASE)
    site.old.ask(visitor, SET)

    def roll_back(request):
        with transaction.atomic():
            assert request.session["cart"] == ["tea"]
            transaction.set_rollback(True)
        if fails:
            raise RuntimeError

    answer = site.move.ask(visitor, roll_back)
    assert answer.status_code == (500 if fails else 200)
    assert cart(site.move, visitor) == ["tea"]
    assert cart(site.done, visitor) == ["tea"]


def rolled_back(act):
    def roll_back(request):
        with transaction.atomic():
            act(request)
            transaction.set_rollback(True)

    return roll_back


SOURCES_OF_ROWS = {"engine": f"{BACKENDS}.db", "ours": DATABASE}


@pytest.mark.parametrize("source", SOURCES_OF_ROWS.values(), ids=SOURCES_OF_ROWS)
def test_a_logout_of_the_first_step_is_final_though_it_is_rolled_back(visitor, user, source):
    site = Site(source, REDIS)
    site.old.ask(visitor, log_in(user), SET)
    known = visitor.twin()
    site.accept.ask(visitor, rolled_back(logout))
    for release in (site.old, site.accept, site.move):
        assert cart(release, known.twin()) is None


@pytest.mark.parametrize("source", SOURCES_OF_ROWS.values(), ids=SOURCES_OF_ROWS)
def test_a_login_of_the_first_step_that_is_rolled_back_leaves_the_session(visitor, user, source):
    site = Site(source, REDIS)
    site.old.ask(visitor, SET)
    key = visitor.key
    site.accept.ask(visitor, rolled_back(log_in(user)))
    assert visitor.key == key
    for release in (site.old, site.accept, site.move):
        assert release.ask(visitor, name_of_user).content == b""
        assert cart(release, visitor) == ["tea"]


def test_a_save_of_the_first_step_that_is_rolled_back_is_made_again(visitor, stores):
    site = Site(f"{BACKENDS}.db", REDIS)
    site.old.ask(visitor, SET)

    def save(request):
        request.session["more"] = 1
        request.session.save()

    site.accept.ask(visitor, CART, rolled_back(save))
    assert site.old.ask(visitor, ("get", "more")).seen == [1]


def test_a_login_after_the_move_that_is_rolled_back_where_only_the_old_rows_were(
    visitor, user, stores
):
    """Redis knows no transactions, so the new key stays."""
    site = Site(f"{BACKENDS}.db", REDIS)
    site.old.ask(visitor, SET)
    cart(site.move, visitor)
    site.move.ask(visitor, rolled_back(log_in(user)))
    assert cart(site.move, visitor) == ["tea"]


@pytest.mark.parametrize("target", [POSTGRES, REDIS], ids=["postgres", "redis"])
def test_a_save_that_commits_after_the_move_is_kept(settings, stores, target):
    settings.DATABASE_ROUTERS = [Router()]
    accept, move = (MovingStrategy(f"{BACKENDS}.db", target, step) for step in ("accept", "move"))
    old_key = accept.insert({"cart": ["tea"]}, later()).session_id
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic("postgres"):
            stored = accept.load(old_key)
            accept.merge(stored, {"cart": ["tea"], "more": 1}, later())
            moved = pool.submit(in_thread, move.load, old_key)
            # It waits for this transaction before it can delete the old row.
            wait_until(lambda: _is_moved(move, old_key))
        moved.result()
    assert move.load(old_key).data == {"cart": ["tea"], "more": 1}
    assert accept.source.load(old_key) is None


def _is_moved(move, old_key):
    def find():
        row = move.target.get(_find_place(old_key).key)
        return row is not None and row.record != _CLAIM

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(in_thread, find).result()
