"""Records: whoever reads the store learns no id, and whoever writes it makes no session."""

from __future__ import annotations

import logging
import pickle
import secrets
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_strategy_sessions import records
from django_strategy_sessions.records import SessionTooLarge, hashed, is_current, seal, unseal
from django_strategy_sessions.testing import EVERYTHING

ID, OTHER = records.new_id(), records.new_id()
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class PickleSerializer:
    """Bytes that are not UTF-8, as a project's own serializer may make."""

    def dumps(self, value):
        return pickle.dumps(value)

    def loads(self, payload):
        return pickle.loads(payload)


class RawSerializer:
    """UTF-8 with a NUL in it."""

    def dumps(self, value):
        return value["text"].encode()

    def loads(self, payload):
        return {"text": payload.decode()}


def test_ids_have_128_bits_and_never_repeat():
    ids = {records.new_id() for _ in range(100_000)}
    assert len(ids) == 100_000
    assert {len(session_id) for session_id in ids} == {22}


def test_ids_come_from_the_systems_randomness(monkeypatch):
    asked = []

    def token_bytes(count):
        asked.append(count)
        return bytes(count)

    monkeypatch.setattr(secrets, "token_bytes", token_bytes)
    assert records.new_id() == "A" * 22
    assert asked == [16]


def test_the_hash_is_what_the_store_sees():
    assert len(hashed(ID)) == 32
    for _ in range(1000):
        assert (as_uuid := UUID(hashed(records.new_id()))).version == 4
        assert as_uuid.variant == RFC_4122
    assert hashed(ID) == hashed(ID) != hashed(OTHER)
    assert ID not in seal(ID, {})


@given(st.dictionaries(st.text(), json_values))
def test_every_json_value_comes_back_exactly(data):
    assert repr(unseal(ID, seal(ID, data))) == repr(data)


@pytest.mark.parametrize("serializer", [PickleSerializer, RawSerializer])
def test_other_serializers_come_back_exactly(settings, serializer):
    settings.SESSION_SERIALIZER = f"{__name__}.{serializer.__name__}"
    record = seal(ID, {"text": "a\0b"})
    assert "\0" not in record
    assert unseal(ID, record) == {"text": "a\0b"}


def test_a_record_of_another_session_is_no_session():
    assert unseal(OTHER, seal(ID, {"user": 1})) is None


def test_no_change_of_a_record_unseals(caplog):
    record = seal(ID, {"canary": "CANARY"})
    for position in range(len(record)):
        assert unseal(ID, record[:position]) is None
        for letter in "tbA0 é\0":
            changed = record[:position] + letter + record[position + 1 :]
            assert changed == record or unseal(ID, changed) is None
    assert unseal(ID, record + " ") is None
    assert {r.name for r in caplog.records} == {"django.security.SuspiciousSession"}
    assert "CANARY" not in caplog.text
    assert ID not in caplog.text


def test_what_is_not_a_dict_is_no_session(caplog):
    for value in ([], "text", 5, None):
        assert unseal(ID, seal(ID, value)) is None
    assert "did not hold a dict" in caplog.text


def test_a_record_of_another_serializer_is_no_session(settings, caplog):
    record = seal(ID, {"text": "CANARY"})
    settings.SESSION_SERIALIZER = f"{__name__}.PickleSerializer"
    assert unseal(ID, record) is None
    assert "CANARY" not in caplog.text


def test_secrets_rotate(settings):
    settings.SESSION_COOKIE_SECRETS = ["o" * 32]
    record = seal(ID, EVERYTHING)
    settings.SESSION_COOKIE_SECRETS = ["n" * 32, "o" * 32]
    assert unseal(ID, record) == EVERYTHING
    assert not is_current(ID, record)
    assert is_current(ID, seal(ID, EVERYTHING))
    settings.SESSION_COOKIE_SECRETS = ["n" * 32]
    assert unseal(ID, record) is None


def test_a_session_beyond_the_limit_is_refused(settings):
    with pytest.raises(SessionTooLarge, match="1,048,576"):
        seal(ID, {"a": "x" * (1024 * 1024)})
    settings.SESSION_MAX_SIZE = 20
    seal(ID, {"a": "x" * 12})
    with pytest.raises(SessionTooLarge) as error:
        seal(ID, {"a": "CANARY" * 3})
    assert "CANARY" not in str(error.value)


def test_a_mac_is_not_taken_for_a_key():
    # Keys and seals are made under different keys of one secret.
    assert seal(ID, {})[:17] not in records.signing.sign(ID, "record")


def test_logging_goes_to_the_name_that_projects_watch():
    assert records._logger is logging.getLogger("django.security.SuspiciousSession")
