"""React Router's cookies: signatures and attributes."""

from __future__ import annotations

from django_strategy_sessions import Session

from .conftest import NEW, OLD, T_HEADER, T, attributes, held, pair


def test_94_the_same_id_has_the_same_cookie(store):
    storage = store.storage()
    session = storage.get_session(cookie := held(storage, a=1))
    assert [pair(storage.commit_session(session)) for _ in range(2)] == [cookie] * 2


def test_110_options_that_were_not_given_are_not_in_the_cookie(store):
    session = Session({"a": 1})
    assert attributes(store.storage().commit_session(session)) == {"Path": "/", "SameSite": "Lax"}
    given = attributes(store.storage().commit_session(session, path="/about"))
    assert given == {"Path": "/about", "SameSite": "Lax"}


def test_95_96_97_secrets_are_rotated_without_a_logout(store):
    old, both, new = (store.storage({"secrets": s}) for s in ([OLD], [NEW, OLD], [NEW]))
    cookie = held(old, a=1)
    assert new.get_session(cookie).data == {}
    renewed = pair(both.commit_session(both.get_session(cookie)))
    assert new.get_session(renewed).data == {"a": 1}
    assert old.get_session(renewed).data == {}


def test_103_ours_a_mac_has_one_spelling(store):
    cookie = held(store.storage(), a=1)
    for other in (
        cookie + "=",
        cookie[:-1] + " " + cookie[-1],
        cookie[:-1] + chr(ord(cookie[-1]) ^ 1),
    ):
        assert store.storage().get_session(other).id == ""


def test_104_ours_a_cookie_of_another_name_does_not_verify(store):
    one, other = store.storage({"name": "one"}), store.storage({"name": "other"})
    assert other.get_session(held(one, a=1).replace("one=", "other=")).id == ""


def test_111_attributes_are_in_the_original_order(store):
    storage = store.storage({
        "same_site": "strict", "partitioned": True, "secure": True, "http_only": True, "path": "/p",
        "domain": "a.com", "max_age": 60, "name": "c",
    })  # fmt: skip
    session = Session({"a": 1})
    text = storage.commit_session(session, expires=T, max_age=60)
    assert text.partition("; ")[2] == (
        f"Max-Age=60; Domain=a.com; Path=/p; Expires={T_HEADER}; HttpOnly; Secure; Partitioned;"
        " SameSite=Strict"
    )
