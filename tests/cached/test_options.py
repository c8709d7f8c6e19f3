"""What `CachedStrategy` accepts as its two stores."""

from __future__ import annotations

import pytest

from django_strategy_sessions.strategies import WrongOption, make_strategy

from ..conftest import CACHED, DATABASE, MEMORY, POSTGRES, REDIS

PATH = CACHED["BACKEND"]
CLUSTER = {
    "BACKEND": "django_redis.cache.RedisCache",
    "LOCATION": "redis://127.0.0.1:7000",
    "OPTIONS": {
        "CONNECTION_FACTORY": (
            "django_strategy_sessions.strategies.redis.ClusterConnectionFactory"
        ),
    },
}


def make(**options):
    return make_strategy({"BACKEND": PATH, "OPTIONS": options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": DATABASE, "store": DATABASE}, '"cache" has to be a RedisStrategy'),
        ({"cache": REDIS, "store": REDIS}, '"store" has to be a durable store'),
        ({"cache": REDIS, "store": MEMORY}, '"store" has to be a durable store'),
        ({"cache": REDIS, "store": CACHED}, '"store" has to be a durable store'),
        # As it comes from the environment, where it would count as true.
        ({"cache": REDIS, "store": DATABASE, "reads": "False"}, '"reads" has to be True or False'),
    ],
)
def test_an_option_that_cannot_be_that_is_refused_with_what_can(options, message):
    with pytest.raises(WrongOption, match=message) as caught:
        make(**options)
    assert caught.value.hint.startswith('SESSION_STRATEGY["OPTIONS"]')


def test_a_cluster_cannot_be_the_cache(settings):
    settings.CACHES = {**settings.CACHES, "sessions": CLUSTER}
    with pytest.raises(WrongOption, match="cannot be a Redis Cluster") as caught:
        make(cache=REDIS, store=DATABASE)
    assert caught.value.hint.startswith('CACHES["sessions"] = {')


def test_the_cache_has_a_shorter_time_out_unless_it_is_given_one():
    assert make(cache=REDIS, store=DATABASE).cache.clients.timeout == 0.5
    given = {**REDIS, "OPTIONS": {**REDIS["OPTIONS"], "timeout": 1}}
    assert make(cache=given, store=DATABASE).cache.clients.timeout == 1


def test_its_store_says_how_many_rows_are_deleted_at_once():
    store = make_strategy(POSTGRES)
    assert make(cache=REDIS, store=POSTGRES).batch_size == store.batch_size != 1000
