"""`SESSION_SERIALIZER`: dicts only, encryption, a lost key. On each strategy, in both colours."""

from __future__ import annotations

import json
import secrets
from base64 import b64decode, b64encode
from hashlib import sha256

import pytest
from django.contrib.sessions.backends.base import UpdateError

from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.steps import arun, run
from django_strategy_sessions.strategies import get_strategy

from ..conftest import run_in_loop

KEYS = {"current": b"a key"}


class DictsOnly:
    """As several published serializers: they refuse whatever is not a dict."""

    def dumps(self, data):
        assert isinstance(data, dict)
        return json.dumps(data).encode()

    def loads(self, payload):
        return json.loads(payload)


class Encrypting(DictsOnly):
    """A stream cipher with a nonce and a mac: its output differs at each call."""

    def dumps(self, data):
        plain, nonce = super().dumps(data), secrets.token_bytes(16)
        hidden = bytes(a ^ b for a, b in zip(plain, _stream(nonce, len(plain)), strict=True))
        return b64encode(nonce + _mac(nonce, hidden) + hidden)

    def loads(self, payload):
        raw = b64decode(payload)
        nonce, mac, hidden = raw[:16], raw[16:48], raw[48:]
        if mac != _mac(nonce, hidden):
            raise LookupError("CANARY: not encrypted with this key")
        plain = bytes(a ^ b for a, b in zip(hidden, _stream(nonce, len(hidden)), strict=True))
        return super().loads(plain)


def _stream(nonce, length):
    blocks = (
        sha256(KEYS["current"] + nonce + bytes([n])).digest() for n in range(length // 32 + 1)
    )
    return b"".join(blocks)[:length]


def _mac(nonce, hidden):
    return sha256(b"mac" + KEYS["current"] + nonce + hidden).digest()


@pytest.fixture(params=[DictsOnly, Encrypting])
def serializer(request, settings):
    settings.SESSION_SERIALIZER = f"{__name__}.{request.param.__name__}"


@pytest.fixture
def encrypting(settings):
    settings.SESSION_SERIALIZER = f"{__name__}.Encrypting"


@pytest.fixture(params=["sync", "async"])
def do(request):
    """Carries out steps on a session of this key."""
    if request.param == "sync":
        return lambda session, steps: run(session, steps)
    return lambda session, steps: run_in_loop(arun(session, steps))


def saved(do, **data):
    session = SessionStore()

    def steps():
        yield "update", data
        yield ("save",)

    do(session, steps())
    return session.session_key


def held(do, key):
    def steps():
        return (yield ("load",))

    return do(SessionStore(key), steps())


def test_every_value_comes_back(strategy, serializer, do):
    data = {"text": "日本\0", "n": 10**30, "none": None, "nested": {"a": [1, {"b": "c"}]}}
    assert held(do, saved(do, **data)) == data


def test_a_change_within_a_value_is_saved_without_modified(strategy, serializer, do):
    key = saved(do, cart={"items": [1]}, other=1)
    session = SessionStore(key)

    def steps():
        (yield "get", "cart")["items"].append(2)
        assert session.modified
        yield ("save",)

    do(session, steps())
    assert held(do, key) == {"cart": {"items": [1, 2]}, "other": 1}


def test_reading_writes_nothing(strategy, serializer, calls, do):
    key = saved(do, a={"n": [1]}, b=1)
    session = SessionStore(key)

    def steps():
        assert (yield "get", "a") == {"n": [1]}
        assert not session.modified
        yield "update", {"b": 1}  # an equal value
        session.modified = False
        assert not session.modified
        calls.clear()
        yield ("save",)

    do(session, steps())
    assert {call.removeprefix("a") for call in calls} <= {"load"}


def test_reading_a_name_does_not_overwrite_what_another_request_saves(strategy, serializer, do):
    key = saved(do, theirs=1, mine=1, both=1)
    one, other = SessionStore(key), SessionStore(key)

    def meanwhile():
        yield "update", {"theirs": 2, "both": 2}
        yield ("save",)

    def steps():
        for name in ("theirs", "mine", "both"):
            assert (yield "get", name) == 1
        yield "update", {"mine": 2, "both": 3}
        yield from twin(meanwhile)
        yield ("save",)
        assert (yield "get", "theirs") == 2  # which the save has brought along
        yield "update", {"mine": 3}
        yield ("save",)

    def twin(_steps):
        # Another request, over the same verbs.
        yield "another", other, _steps

    do(Beside(one), steps())
    assert held(do, key) == {"theirs": 2, "mine": 3, "both": 3}


class Beside:
    """A session, and a step that is another one's."""

    def __init__(self, session):
        self.session = session

    def __getattr__(self, name):
        return getattr(self.session, name)

    def another(self, session, steps):
        run(session, steps())

    async def aanother(self, session, steps):
        await arun(session, steps())


def test_a_flash_that_was_read_is_gone_and_a_newer_one_stays(strategy, serializer, do):
    key = saved(do, __flash_one__="seen", __flash_two__="seen")
    one, other = SessionStore(key), SessionStore(key)

    def meanwhile():
        yield "update", {"__flash_two__": "newer"}
        yield ("save",)

    def steps():
        assert (yield "get", "one") == (yield "get", "two") == "seen"
        yield "another", other, meanwhile
        yield ("save",)

    do(Beside(one), steps())
    assert held(do, key) == {"__flash_two__": "newer"}


def test_apply_computes_from_what_is_stored(strategy, serializer, do):
    key = saved(do, count=1)
    one, other = SessionStore(key), SessionStore(key)

    def add():
        return (yield "apply", "count", lambda count: count + 1, 0)

    def steps():
        yield "get", "count"
        yield "another", other, add
        assert (yield from add()) == 3

    do(Beside(one), steps())
    assert held(do, key) == {"count": 3}


def test_saving_the_same_user_again_is_not_a_sign_in(strategy, encrypting, do):
    key = saved(do, _auth_user_id="1")
    before = get_strategy().load(key.split(".")[0])
    assert get_strategy().update_data(before.session_id, {"_auth_user_id": "1", "a": 1}, later())
    assert get_strategy().load(before.session_id).created == before.created


def test_apply_brings_no_user_into_a_session_that_was_rotated(strategy, serializer, do):
    key = saved(do, _auth_user_id="1")
    one, other = SessionStore(key), SessionStore(key)

    def rotate():
        yield ("cycle_key",)

    def steps():
        yield "get", "_auth_user_id"
        yield "another", other, rotate
        yield "apply", "_auth_user_id", lambda user: "2", None

    with pytest.raises(UpdateError):
        do(Beside(one), steps())
    assert held(do, other.session_key) == {"_auth_user_id": "1"}


def later():
    from django_strategy_sessions.testing import later

    return later()


@pytest.mark.parametrize("change", ["lost key", "other serializer", "back to JSON"])
def test_data_that_can_no_longer_be_decoded_is_no_session(
    strategy, encrypting, do, settings, monkeypatch, caplog, change
):
    key = saved(do, canary="CANARY", n=1)
    if change == "lost key":
        monkeypatch.setitem(KEYS, "current", b"another key")
    elif change == "other serializer":
        settings.SESSION_SERIALIZER = f"{__name__}.DictsOnly"
    else:
        settings.SESSION_SERIALIZER = "django.core.signing.JSONSerializer"
    session = SessionStore(key)

    def steps():
        assert (yield "get", "canary", "nothing") == "nothing"
        yield "update", {"a": 1}
        yield ("save",)

    do(session, steps())
    assert session.session_key != key
    assert held(do, session.session_key) == {"a": 1}
    assert {record.name for record in caplog.records} == {"django.security.SuspiciousSession"}
    assert "CANARY" not in caplog.text


def test_unencrypted_json_under_an_encrypting_serializer_is_no_session(
    strategy, settings, do, caplog
):
    key = saved(do, canary="CANARY")
    settings.SESSION_SERIALIZER = f"{__name__}.Encrypting"
    assert held(do, key) == {}
    assert "another SESSION_SERIALIZER" in caplog.text
    assert "CANARY" not in caplog.text


def test_the_store_holds_no_plain_text(strategy, encrypting, do):
    key = saved(do, card="CANARY")
    assert "CANARY" not in get_strategy().load(key.split(".")[0]).token.row.record
