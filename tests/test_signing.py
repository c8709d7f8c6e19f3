"""Session keys: forging one needs a secret, and secrets can be changed without a logout."""

from __future__ import annotations

import hmac

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from django_strategy_sessions import records, signing
from django_strategy_sessions.signing import checked_secrets, project_secrets, sign, unsign
from django_strategy_sessions.values import encode_all

OLD, NEW = b"o" * 32, b"n" * 32
SESSION_ID = "AbCdEfGhIjKlMnOpQrStUv"


def test_a_key_has_the_forty_characters_that_other_tables_hold():
    key = sign(records.new_id(), "sessionid")
    assert len(key) == 40
    assert unsign(key, "sessionid") == key[:22]


def test_a_key_is_the_same_each_time():  # React Router 94
    assert sign(SESSION_ID, "c", (NEW,)) == sign(SESSION_ID, "c", (NEW,))


def test_the_newest_secret_signs_and_all_verify():  # React Router 95
    assert sign(SESSION_ID, "c", (NEW, OLD)) == sign(SESSION_ID, "c", (NEW,))
    assert unsign(sign(SESSION_ID, "c", (OLD,)), "c", (NEW, OLD)) == SESSION_ID


def test_a_secret_that_was_removed_ends_its_keys():  # React Router 97
    key = sign(SESSION_ID, "c", (OLD,))
    assert unsign(key, "c", (NEW, OLD)) == SESSION_ID  # and is remembered
    assert unsign(key, "c", (NEW,)) is None


def test_a_key_does_not_verify_in_another_cookie():
    key = sign(SESSION_ID, "one", (NEW,))
    assert unsign(key, "one", (NEW,)) == SESSION_ID  # and is remembered
    assert unsign(key, "other", (NEW,)) is None


def test_no_single_change_of_a_key_verifies():
    key = sign(SESSION_ID, "c", (NEW,))
    assert unsign(key, "c", (NEW,)) == SESSION_ID  # and is remembered
    for position in range(len(key)):
        for letter in "Az0-_.= \0é":
            changed = key[:position] + letter + key[position + 1 :]
            assert changed == key or unsign(changed, "c", (NEW,)) is None
        assert unsign(key[:position], "c", (NEW,)) is None
        assert unsign(key[position + 1 :], "c", (NEW,)) is None
    assert unsign(key + "A", "c", (NEW,)) is None
    assert unsign(key.swapcase(), "c", (NEW,)) is None


@pytest.fixture
def verified():
    """The cache of keys that verified, empty."""
    signing._verify.cache_clear()
    yield signing._verify
    signing._verify.cache_clear()


@pytest.mark.parametrize("answer", [True, False])
def test_keys_are_compared_in_constant_time(monkeypatch, verified, answer):
    key, record = sign(SESSION_ID, "sessionid"), records.seal(SESSION_ID, encode_all({"a": 1}))
    forged = SESSION_ID + "." + "A" * 17, "A" * records.MAC_LENGTH + record[records.MAC_LENGTH :]
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: answer)
    for given_key, given_record in ((key, record), forged):
        assert (unsign(given_key, "sessionid") == SESSION_ID) is answer
        assert (records.unseal(SESSION_ID, given_record) is not None) is answer


def test_forged_keys_are_not_remembered_and_push_none_out(verified):
    key = sign(SESSION_ID, "c", (NEW,))
    assert unsign(key, "c", (NEW,)) == SESSION_ID
    for number in range(1000):
        assert unsign(f"{SESSION_ID}.{number:017}", "c", (NEW,)) is None
    assert unsign(key, "c", (NEW,)) == SESSION_ID
    assert (verified.cache_info().currsize, verified.cache_info().hits) == (1, 1)


@given(st.text(alphabet=st.characters(), max_size=100))
def test_no_arbitrary_text_verifies_or_raises(text):
    assert unsign(text, "c", (NEW, OLD)) is None
    assert unsign(f"{text}.{text[:17]:17}", "c", (NEW, OLD)) is None


@given(st.text(alphabet=st.characters(), min_size=1))
def test_any_id_of_another_strategy_can_be_signed(session_id):
    assert unsign(sign(session_id, "c", (NEW,)), "c", (NEW,)) == session_id


def test_the_secret_key_and_its_fallbacks_are_the_default(settings):
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new" * 20, ["old" * 20]
    assert project_secrets() == (b"new" * 20, b"old" * 20)
    settings.SESSION_COOKIE_SECRETS = ["x" * 32]
    assert project_secrets() == (b"x" * 32,)


@pytest.mark.parametrize(
    "secrets",
    ["a string of more than thirty-two characters", [], [""], [None], ["short"], {"a" * 40}, 5],
)
def test_secrets_that_would_not_protect_are_refused(secrets):
    with pytest.raises(ImproperlyConfigured, match="SESSION_COOKIE_SECRETS") as error:
        checked_secrets(secrets, "SESSION_COOKIE_SECRETS")
    assert "short" not in str(error.value).replace("shorter", "")


def test_the_key_reveals_nothing_about_the_secret():
    assert settings.SECRET_KEY not in sign(SESSION_ID, "c")
