"""Records: someone who reads the store learns no id, and someone who writes it makes no session."""

from __future__ import annotations

import json
import logging
import pickle
import secrets
from uuid import RFC_4122, UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_strategy_sessions import records
from django_strategy_sessions.records import SessionTooLarge, follow, hashed, is_current, is_moved
from django_strategy_sessions.strategies.base import as_texts
from django_strategy_sessions.testing import EVERYTHING
from django_strategy_sessions.values import Texts, decode_all, encode_all

ID, OTHER = records.new_id(), records.new_id()
KEY, OTHER_KEY = hashed(ID), hashed(OTHER)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def seal(key, data, header=""):
    return records.seal(key, encode_all(data), header)


def unseal(key, record, header_length=0):
    texts = records.unseal(key, record, header_length)
    return None if texts is None else decode_all(texts)


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
    assert ID not in seal(KEY, {})


@given(st.dictionaries(st.text(), json_values))
def test_every_json_value_comes_back_exactly(data):
    assert repr(unseal(KEY, seal(KEY, data))) == repr(data)


@pytest.mark.parametrize("serializer", [PickleSerializer, RawSerializer])
def test_other_serializers_come_back_exactly(settings, serializer):
    settings.SESSION_SERIALIZER = f"{__name__}.{serializer.__name__}"
    record = seal(KEY, {"text": "a\0b"})
    assert "\0" not in record
    assert unseal(KEY, record) == {"text": "a\0b"}


def test_a_record_of_another_session_is_no_session():
    assert unseal(OTHER_KEY, seal(KEY, {"user": 1})) is None


def test_no_change_of_a_record_unseals(caplog):
    record = seal(KEY, {"canary": "CANARY"})
    for position in range(len(record)):
        assert unseal(KEY, record[:position]) is None
        for letter in "tbA0 é\0":
            changed = record[:position] + letter + record[position + 1 :]
            assert changed == record or unseal(KEY, changed) is None
    assert unseal(KEY, record + " ") is None
    assert {r.name for r in caplog.records} == {"django.security.SuspiciousSession"}
    assert "CANARY" not in caplog.text
    assert ID not in caplog.text


def test_each_name_has_a_line_that_people_can_read():
    data = {"cart": ["tea\n", "\t", {"n": 1}], 'a\tb\n"': "\ud800\0", "user": 7}
    record = seal(KEY, data, "header")
    assert record.isascii()
    assert record[records.MAC_LENGTH :] == (
        'headerj{"cart":\t["tea\\n","\\t",{"n":1}],\n"a\\tb\\n\\"":\t"\\ud800\\u0000",\n"user":\t7}'
    )
    assert json.loads(record[records.MAC_LENGTH + len("headerj") :]) == data
    assert unseal(KEY, record, len("header")) == data
    assert unseal(KEY, seal(KEY, {})) == {}


@given(st.dictionaries(st.text(), json_values))
def test_no_name_or_value_contains_a_raw_tab_or_newline(data):
    body = seal(KEY, data)[records.MAC_LENGTH :]
    assert body.count("\t") == len(data)
    assert body.count("\n") == max(0, len(data) - 1)


# What a line is made of, and characters that are quoted: also two halves of one character.
awkward = st.text(st.sampled_from(list('ab5"\\:,{}\t\n\0é😀\ud83d\ude00')), max_size=6)


@given(st.dictionaries(awkward, awkward | st.integers()), st.lists(awkward | st.integers()))
@example({"😀": 1}, ["\ud83d\ude00"])
def test_a_single_name_is_found_as_in_the_split_record(data, others):
    record = seal(KEY, data)
    split = dict(records.unseal(KEY, record).items())
    for name in [*data, *others]:
        for texts in (records.unseal(KEY, record), split_first(records.unseal(KEY, record))):
            assert texts.get(name) == split.get(name)
            assert (name in texts) is (name in split)
            if name in split:
                assert texts[name] == split[name]
            else:
                with pytest.raises(KeyError):
                    texts[name]


def split_first(texts):
    assert len(texts) == len(list(texts)) == len(texts.keys())
    return texts


def test_the_texts_of_a_record_compare_as_a_dict_does():
    data = {"a": 1, "b": [2]}
    texts = records.unseal(KEY, seal(KEY, data))
    assert texts == encode_all(data) == texts == records.unseal(KEY, seal(KEY, data))
    assert texts != encode_all({"a": 1})
    assert encode_all({}) != texts != records.unseal(KEY, seal(KEY, {}))


def test_the_texts_of_a_record_can_be_written_as_they_are():
    data = {"a": 1, "b": [2]}
    assert as_texts(records.unseal(KEY, seal(KEY, data))) == encode_all(data)


def test_the_texts_of_a_record_do_not_show_in_error_reports():
    texts = records.unseal(KEY, seal(KEY, {"canary": "CANARY"}))
    for _ in range(2):
        assert "canary" not in f"{texts!r} {texts} {texts.__sentry_repr__()}".lower()
        len(texts)  # splits them


def test_a_rotation_leaves_only_the_new_hashed_key():
    marker = records.moved(KEY, OTHER_KEY)
    assert is_moved(marker)
    assert follow(KEY, marker) == OTHER_KEY
    assert not is_moved(seal(KEY, {"a": 1}))
    assert unseal(KEY, marker) is None
    assert len(marker) == 2 * records.MAC_LENGTH + len(KEY)


def test_someone_who_can_write_to_the_store_cannot_forge_a_marker():
    marker, third = records.moved(KEY, OTHER_KEY), hashed(records.new_id())
    assert follow(third, marker) is None
    assert follow(KEY, records.moved(third, OTHER_KEY)) is None
    assert follow(KEY, marker.replace(OTHER_KEY, third)) is None
    sealed = seal(KEY, {"a": 1})
    assert follow(KEY, records.MOVED + sealed) is None
    for position in range(records.MAC_LENGTH, len(marker)):
        assert follow(KEY, marker[:position]) is None
        changed = f"{marker[:position]}{'b' if marker[position] == 'a' else 'a'}"
        assert follow(KEY, changed + marker[position + 1 :]) is None


def test_a_marker_outlives_a_change_of_secrets(settings):
    settings.SESSION_COOKIE_SECRETS = ["o" * 32]
    marker = records.moved(KEY, OTHER_KEY)
    settings.SESSION_COOKIE_SECRETS = ["n" * 32, "o" * 32]
    assert follow(KEY, marker) == OTHER_KEY
    settings.SESSION_COOKIE_SECRETS = ["n" * 32]
    assert follow(KEY, marker) is None


def test_a_record_that_the_serializer_cannot_read_is_no_session(settings, caplog):
    """As after the loss of an encryption key."""
    settings.SESSION_SERIALIZER = f"{__name__}.PickleSerializer"
    lost = Texts({"text": '"bm90IGEgcGlja2xl"'})  # in base64: not a pickle
    assert records.unseal(KEY, records.seal(KEY, lost)) is None
    assert "could not be read (UnpicklingError)" in caplog.text


def test_a_record_of_another_serializer_is_no_session(settings, caplog):
    record = seal(KEY, {"text": "CANARY"})
    settings.SESSION_SERIALIZER = f"{__name__}.PickleSerializer"
    assert unseal(KEY, record) is None
    assert "CANARY" not in caplog.text


def test_secrets_rotate(settings):
    settings.SESSION_COOKIE_SECRETS = ["o" * 32]
    record = seal(KEY, EVERYTHING)
    settings.SESSION_COOKIE_SECRETS = ["n" * 32, "o" * 32]
    assert unseal(KEY, record) == EVERYTHING
    assert not is_current(KEY, record)
    assert is_current(KEY, seal(KEY, EVERYTHING))
    settings.SESSION_COOKIE_SECRETS = ["n" * 32]
    assert unseal(KEY, record) is None


def test_a_session_beyond_the_limit_is_refused(settings):
    with pytest.raises(SessionTooLarge, match="1,048,576"):
        seal(KEY, {"a": "x" * (1024 * 1024)})
    settings.SESSION_MAX_SIZE = 20
    seal(KEY, {"a": "x" * 12})
    with pytest.raises(SessionTooLarge) as error:
        seal(KEY, {"a": "CANARY" * 3})
    assert "CANARY" not in str(error.value)


def test_a_mac_is_not_accepted_as_a_key():
    # Keys and seals are made under different keys of one secret.
    assert seal(KEY, {})[:17] not in records.signing.sign(ID, "record")


def test_damaged_records_are_logged_to_djangos_security_logger():
    assert records._logger is logging.getLogger("django.security.SuspiciousSession")
