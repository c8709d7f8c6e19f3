"""What Redis is asked and keeps, and what happens when it, or the way to it, fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django_redis.cache import RedisCache
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.exceptions import ResponseError
from redis.retry import Retry

from django_strategy_sessions import records
from django_strategy_sessions.strategies.base import Apply, StrategyUnavailable
from django_strategy_sessions.strategies.redis import RedisStrategy
from django_strategy_sessions.testing import EVERYTHING, later

from .servers import Tunnel, Valkey, free_port

BOUND = 20  # seconds, within which even a slow machine notices a timeout of one


@pytest.fixture(scope="module")
def server():
    with Valkey("--unixsocket", "valkey.sock") as running:
        yield running


@pytest.fixture
def make(settings):
    """Make a strategy over a cache of its own at `url`, with these `OPTIONS`."""

    def make_strategy(url, OPTIONS=None, **given):
        alias = f"cache {len(settings.CACHES)}"
        cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
        settings.CACHES = {**settings.CACHES, alias: {**cache, "OPTIONS": OPTIONS or {}}}
        return RedisStrategy(alias, **given)

    return make_strategy


@pytest.fixture
def strategy(make, server):
    return make(server.url)


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Call a verb: in sync code, or in one event loop."""
    if request.param == "sync":
        yield lambda strategy, verb, *given: getattr(strategy, verb)(*given)
        return
    called = []  # kept until the loop has closed their clients
    with asyncio.Runner() as loop:

        def call(strategy, verb, *given):
            called.append(strategy)
            return loop.run(getattr(strategy, f"a{verb}")(*given))

        yield call


def execute(server, *command):
    with closing(server.client()) as client:
        return client.execute_command(*command)


def key(stored, prefix="session:"):
    return prefix + records.hashed(stored.session_id)


# -- what is asked, what is kept ------------------------------------------------------------------


@contextmanager
def watched(server):
    """The commands that clients send meanwhile, but for what connections say when they are new."""
    sent = []
    with closing(server.client()) as watcher, watcher.monitor() as monitor:
        yield sent
        execute(server, "ECHO", "that was all")
        for command in monitor.listen():
            if command["command"] == "ECHO that was all":
                return
            name = command["command"].split()[0]
            if command["client_type"] != "lua" and name not in ("HELLO", "CLIENT", "SELECT"):
                sent.append(command["command"])


def test_each_verb_sends_one_command(server, strategy, call):
    def names(verb, *given):
        with watched(server) as sent:
            answers.append(call(strategy, verb, *given))
        return [command.split()[0] for command in sent]

    answers = []
    warm = call(strategy, "insert", {}, later())  # the server learns the script
    call(strategy, "rotate", warm, {}, later())
    assert names("insert", {"a": 1}, later()) == ["SET"]
    assert names("load", answers[0].session_id) == ["GET"]
    assert names("merge", answers[1], {"a": 2}, later()) == ["EVALSHA"]
    assert names("merge", answers[2], answers[2].data, later(7200)) == ["EVALSHA"]
    assert names("rotate", answers[3], {"a": 3}, later()) == ["EVALSHA"]
    assert call(strategy, "read_data", answers[4].session_id) == {"a": 3}
    assert names("delete_data", answers[4].session_id) == ["DEL"]
    assert names("load", answers[4].session_id) == ["GET"]
    assert answers[-1] is None


def test_no_id_and_no_old_record_is_left_in_the_server_or_on_its_disk(make, call):
    with Valkey() as server:
        strategy = make(server.url, prefix="mine:")
        with watched(server) as sent:
            stored = call(strategy, "insert", {"a": 1}, later())
            call(strategy, "load", stored.session_id)
            merged = call(strategy, "merge", stored, {"a": 2}, later())
            rotated = call(strategy, "rotate", merged, {"a": 3}, later())
            call(strategy, "rotate", merged, {"a": 4}, later())  # of what is gone
        ids = {stored.session_id, rotated.session_id}
        with closing(server.client()) as client:
            assert [found.decode() for found in client.scan_iter()] == [key(rotated, "mine:")]
            held = client.dump(key(rotated, "mine:"))
        written = b"".join(path.read_bytes() for path in server.folder.rglob("*.aof"))
        assert key(rotated, "mine:").encode() in written
        for session_id in ids:
            assert session_id not in "".join(sent)
            assert session_id.encode() not in held + written


def test_data_is_text_and_no_pickle(server, strategy):
    stored = strategy.insert({"a": "日本", "n": 10**30}, later())
    record = execute(server, "GET", key(stored)).decode()
    times = record[records.MAC_LENGTH : records.MAC_LENGTH + 32]
    assert times.isdigit()
    assert record[records.MAC_LENGTH + 32] == "t"
    assert json.loads(record[records.MAC_LENGTH + 33 :]) == {"a": "日本", "n": 10**30}


@pytest.mark.parametrize("microseconds", [0, 1, 999, 1000, 123456])
def test_the_key_ends_with_the_session_and_not_a_moment_earlier(
    server, strategy, call, microseconds
):
    expires = later().replace(microsecond=microseconds)

    def ends(stored):
        return execute(server, "PEXPIRETIME", key(stored))

    milliseconds = int(expires.replace(microsecond=0).timestamp()) * 1000 + -(-microseconds // 1000)
    stored = call(strategy, "insert", {"a": 1}, expires)
    assert ends(stored) == milliseconds
    stored = call(strategy, "merge", stored, {"a": 2}, expires + timedelta(hours=1))
    assert ends(stored) == milliseconds + 3_600_000
    stored = call(strategy, "rotate", stored, {"a": 2}, expires)
    assert ends(stored) == milliseconds


def test_what_is_expired_at_once_leaves_nothing(server, strategy, call):
    for expires in (datetime(1969, 1, 1, tzinfo=UTC), later(-0.001)):
        stored = call(strategy, "insert", {"a": 1}, expires)
        assert execute(server, "EXISTS", key(stored)) == 0
        stored = call(strategy, "insert", {"a": 1}, later())
        call(strategy, "merge", stored, {"a": 2}, expires)
        assert execute(server, "EXISTS", key(stored)) == 0


AT = records.MAC_LENGTH
FORGERIES = {
    "emptied": lambda record, other: "",
    "cut": lambda record, other: record[:-1],
    "cut in the mac": lambda record, other: record[: AT // 2],
    "longer": lambda record, other: record + " ",
    "another's": lambda record, other: other,
    "another's data": lambda record, other: record[:AT] + other[AT:],
    "a later end": lambda record, other: f"{record[:AT]}9{record[AT + 1 :]}",
    "another encoding": lambda record, other: f"{record[: AT + 32]}b{record[AT + 33 :]}",
    "no text": lambda record, other: record[:AT].encode() + b"\xff\xfe" + record[AT:].encode(),
    "a pickle": lambda record, other: b"\x80\x04\x95\x00",
    "a number": lambda record, other: "1",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_record_is_no_session(server, strategy, call, forge):
    stored = call(strategy, "insert", {"admin": False}, later())
    other = call(strategy, "insert", {"admin": True}, later())
    execute(server, "SET", key(stored), forge(stored.token, other.token), "EX", 3600)
    assert call(strategy, "load", stored.session_id) is None
    assert call(strategy, "update_data", stored.session_id, {"a": 1}, later()) is False
    assert call(strategy, "load", other.session_id).data == {"admin": True}


def test_a_value_of_another_kind_is_a_mistake_and_no_outage(server, strategy, call):
    stored = call(strategy, "insert", {"a": 1}, later())
    execute(server, "DEL", key(stored))
    execute(server, "RPUSH", key(stored), "a", "list")
    for verb in (
        ("load", stored.session_id),
        ("merge", stored, {}, later()),
        ("rotate", stored, {}, later()),
    ):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            call(strategy, *verb)
    call(strategy, "delete_data", stored.session_id)
    assert call(strategy, "load", stored.session_id) is None


@pytest.mark.parametrize("verb", ["merge", "rotate"])
def test_a_server_that_forgot_the_script_learns_it_in_the_same_call(server, strategy, call, verb):
    stored = call(strategy, verb, call(strategy, "insert", {"a": 1}, later()), {"a": 2}, later())
    execute(server, "SCRIPT", "FLUSH")
    with watched(server) as sent:
        stored = call(strategy, verb, stored, {"a": 3}, later())
    assert [command.split()[0] for command in sent] == ["EVALSHA", "EVAL"]
    assert call(strategy, "load", stored.session_id).data == {"a": 3}
    with watched(server) as sent:
        call(strategy, verb, stored, {"a": 4}, later())
    assert [command.split()[0] for command in sent] == ["EVALSHA"]


@pytest.mark.parametrize("verb", ["merge", "rotate"])
def test_a_session_ends_by_our_clock_whatever_the_servers_says(strategy, call, verb):
    stored = call(strategy, "insert", {"a": 1}, later(5))
    with time_machine.travel(later(6)):
        assert call(strategy, verb, stored, {"a": 2}, later(60)) is None
    assert call(strategy, "load", stored.session_id).data == {"a": 1}


def test_a_session_may_outlive_its_header(strategy, call):
    end = datetime.max.replace(tzinfo=UTC)
    stored = call(strategy, "insert", {"a": 1}, end)
    loaded = call(strategy, "load", stored.session_id)
    assert loaded.data == {"a": 1}
    assert loaded.expires.year == 2286


def test_clearing_a_cache_of_another_database_logs_nobody_out(make, server):
    strategy, other = make(server.url), make(server.url.replace("/0", "/1"))
    stored = strategy.insert({"a": 1}, later())
    caches[other.alias].set("cached", 1)
    caches[other.alias].clear()
    assert caches[other.alias].get("cached") is None
    assert strategy.load(stored.session_id).data == {"a": 1}


def test_clearing_a_cache_of_the_same_database_ends_its_sessions(make, server):
    strategy, other = make(server.url), make(server.url)
    stored = strategy.insert({"a": 1}, later())
    caches[other.alias].clear()  # FLUSHDB, as a check warns
    assert strategy.load(stored.session_id) is None
    assert strategy.merge(stored, {"a": 2}, later()) is None


# -- how it is set up -----------------------------------------------------------------------------


class OurCache(RedisCache):
    pass


@pytest.mark.parametrize("alias", ["default", "missing", "django's"])
def test_an_alias_that_is_not_django_redis_is_answered_with_what_to_paste(settings, server, alias):
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "django's": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": server.url,
        },
    }
    with pytest.raises(ImproperlyConfigured, match="django-redis") as error:
        RedisStrategy(alias)
    namespace = {"CACHES": dict(settings.CACHES)}
    exec(str(error.value).splitlines()[-1], namespace)
    assert namespace["CACHES"] != settings.CACHES
    settings.CACHES = namespace["CACHES"]
    assert RedisStrategy(alias).alias == alias


def test_a_subclass_of_django_redis_will_do(settings, server):
    settings.CACHES = {"ours": {"BACKEND": f"{__name__}.OurCache", "LOCATION": server.url}}
    strategy = RedisStrategy("ours")
    stored = strategy.insert({"a": 1}, later())
    assert strategy.load(stored.session_id).data == {"a": 1}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """One of localhost, that of the authority that signed it, and that of a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("There is no openssl to make certificates with.")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *arguments)
        subprocess.run(["openssl", *made], cwd=folder, check=True, capture_output=True)

    for name in ("authority", "stranger"):
        subject = ("-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign")
        openssl(*subject, "-keyout", f"{name}.key", "-out", f"{name}.pem")
    openssl(
        *("-CA", "authority.pem", "-CAkey", "authority.key", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-keyout", "server.key", "-out", "server.pem"),
    )
    return folder


@pytest.fixture(scope="module")
def through_tls(server, certificates):
    """The server behind TLS, which that of PyPI does not speak itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    with Tunnel(server.port, context) as tunnel:
        yield tunnel


def tls(certificates, authority):
    return {"CONNECTION_POOL_KWARGS": {"ssl_ca_certs": str(certificates / f"{authority}.pem")}}


def check_every_verb(strategy, call):
    stored = call(strategy, "insert", EVERYTHING, later())
    assert call(strategy, "load", stored.session_id).data == EVERYTHING
    merged = call(strategy, "merge", stored, {**EVERYTHING, "more": 1}, later())
    rotated = call(strategy, "rotate", merged, {"a": "ü"}, later())
    assert call(strategy, "load", stored.session_id) is None
    assert call(strategy, "update_data", rotated.session_id, {"b": "ü"}, later()) is True
    assert call(strategy, "read_data", rotated.session_id) == {"b": "ü"}
    call(strategy, "delete_data", rotated.session_id)
    assert call(strategy, "load", rotated.session_id) is None


POOLS = {
    "decoded": {"decode_responses": True},
    "RESP2": {"protocol": 2},
    "RESP3": {"protocol": 3},
    "few connections": {"max_connections": 1},
    "health checks": {"health_check_interval": 1, "retry_on_timeout": False},
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_the_options_of_connections_are_followed(server, make, call, pool):
    check_every_verb(make(server.url, {"CONNECTION_POOL_KWARGS": pool}), call)


def test_a_unix_socket_will_do(server, make, call):
    check_every_verb(make(f"unix://{server.folder}/valkey.sock?db=0"), call)


def test_tls_will_do(through_tls, certificates, make, call):
    url = f"rediss://localhost:{through_tls.port}/0"
    check_every_verb(make(url, tls(certificates, "authority")), call)
    with pytest.raises(StrategyUnavailable):
        call(make(url, tls(certificates, "stranger")), "load", "AAAAAAAAAAAAAAAAAAAAAA")


def test_users_and_passwords_are_followed(server, make, call):
    page = (Path(__file__).parent.parent / "docs" / "redis.md").read_text()
    (least,) = re.findall(r"^user shop on >\S+ (.+)$", page, flags=re.MULTILINE)
    execute(server, "ACL", "SETUSER", "ada", "on", ">secret", *least.split())
    url = f"redis://ada:secret@127.0.0.1:{server.port}/0"
    check_every_verb(make(url), call)
    check_every_verb(make(server.url, {"USERNAME": "ada", "PASSWORD": "secret"}), call)
    execute(server, "ACL", "DELUSER", "ada")


def test_a_password_that_is_renewed_reaches_connections_that_are_kept(server, make):
    class Token:
        def try_get(self, name):
            return "ada"

        def get_value(self):
            return "secret"

    execute(server, "ACL", "SETUSER", "ada", "on", ">secret", "~session:*", "+@all")
    provider = UsernamePasswordCredentialProvider("ada", "secret")
    strategy = make(server.url, {"CONNECTION_POOL_KWARGS": {"credential_provider": provider}})
    stored = strategy.insert({"a": 1}, later())
    with watched(server) as sent:
        strategy.client.connection_pool.re_auth_callback(Token())
        assert strategy.load(stored.session_id).data == {"a": 1}
    assert [command.split()[0] for command in sent] == ["AUTH", "GET"]
    execute(server, "ACL", "DELUSER", "ada")


def test_replicas_are_never_asked(server, make, call):
    with Valkey("--replicaof", "127.0.0.1", str(server.port)) as replica:
        strategy = make([server.url, replica.url])
        with watched(replica) as sent:
            check_every_verb(strategy, call)
        assert not [command for command in sent if command.split()[0] == "GET"]


# -- a server that fails --------------------------------------------------------------------------


@contextmanager
def refusing(server, verbs, on, off):
    """Change how the server is set up; it is a connection of before that changes it back."""
    with closing(server.client()) as client:
        for command in on:
            client.execute_command(*command.split())
        try:
            yield verbs
        finally:
            for command in off:
                client.execute_command(*command.split())


WRITES = {"insert", "merge", "rotate"}
REFUSALS = {
    "OOM": (WRITES, ["CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"]),
    "READONLY": (
        WRITES | {"delete_data"},
        [f"REPLICAOF 127.0.0.1 {free_port()}"],
        ["REPLICAOF NO ONE"],
    ),
    "NOREPLICAS": (
        WRITES | {"delete_data"},
        ["CONFIG SET min-replicas-to-write 1"],
        ["CONFIG SET min-replicas-to-write 0"],
    ),
    "MASTERDOWN": (
        WRITES | {"delete_data", "load"},
        [f"REPLICAOF 127.0.0.1 {free_port()}", "CONFIG SET replica-serve-stale-data no"],
        ["CONFIG SET replica-serve-stale-data yes", "REPLICAOF NO ONE"],
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_server_that_refuses_is_unavailable_and_says_why(server, strategy, call, refusal):
    stored = call(strategy, "insert", {"a": 1}, later())
    verbs = {
        "insert": ({"b": 1}, later()),
        "load": (stored.session_id,),
        "merge": (stored, {"a": 2}, later()),
        "rotate": (stored, {"a": 3}, later()),
        "delete_data": (stored.session_id,),
    }
    with refusing(server, *refusal) as refused:
        for verb, given in verbs.items():
            if verb in refused:
                with pytest.raises(StrategyUnavailable) as error:
                    call(strategy, verb, *given)
                assert isinstance(error.value.__cause__, Exception)
                assert stored.session_id not in f"{error.value} {error.value.__cause__}"
            elif verb == "load":
                assert call(strategy, verb, *given).data == {"a": 1}
    assert call(strategy, "load", stored.session_id).data == {"a": 1}


# redis-py forgets to close a connection that is refused right after it was made.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_that_lets_nobody_in_is_unavailable(server, make, call):
    stored = call(make(server.url), "insert", {"a": 1}, later())
    on, off = ["ACL SETUSER default resetpass >secret"], ["ACL SETUSER default nopass"]
    with refusing(server, ..., on, off):
        for options in ({}, {"PASSWORD": "wrong"}):
            with pytest.raises(StrategyUnavailable) as error:
                call(make(server.url, options), "load", stored.session_id)
            assert error.value.__cause__ is not None
        let_in = make(server.url, {"PASSWORD": "secret"})
        assert call(let_in, "load", stored.session_id).data == {"a": 1}


TIMEOUTS = {
    "the strategy's": ({}, {"timeout": 1}),
    "the alias's": (
        {"SOCKET_TIMEOUT": 1, "SOCKET_CONNECT_TIMEOUT": 1},
        {"timeout": 3600},
    ),
}


@pytest.mark.parametrize(("options", "given"), TIMEOUTS.values(), ids=TIMEOUTS)
def test_a_server_that_hangs_is_unavailable_after_the_timeout(server, make, call, options, given):
    strategy, begins = make(server.url, options, **given), time.monotonic()
    stored = call(strategy, "insert", {"a": 1}, later())
    server.pause()
    try:
        for verb in (("load", stored.session_id), ("merge", stored, {"a": 2}, later())):
            with pytest.raises(StrategyUnavailable):
                call(strategy, *verb)
    finally:
        server.resume()
    assert time.monotonic() - begins < BOUND
    assert call(strategy, "load", stored.session_id).session_id == stored.session_id


def test_a_hang_that_many_met_keeps_the_next_waiting_only_once(make):
    with Valkey() as server, ThreadPoolExecutor(8) as pool:
        strategy = make(server.url, timeout=1)
        stored, together = strategy.insert({"a": 1}, later()), threading.Barrier(8)

        def load(when):
            when()
            return strategy.load(stored.session_id).data

        assert list(pool.map(load, [together.wait] * 8)) == [{"a": 1}] * 8
        server.pause()
        for ended in [pool.submit(load, together.wait) for _ in range(8)]:
            assert isinstance(ended.exception(), StrategyUnavailable)
        begins = time.monotonic()
        with pytest.raises(StrategyUnavailable):
            strategy.load(stored.session_id)
        assert time.monotonic() - begins < 4
        server.resume()
        assert list(pool.map(load, [together.wait] * 8)) == [{"a": 1}] * 8


def test_whoever_meets_a_primary_that_was_demoted_connects_anew(make, call):
    """Where a name leads to the new one by now."""
    with Valkey() as server:
        strategy = make(server.url)
        stored = call(strategy, "insert", {"a": 1}, later())
        before = connections(server)
        execute(server, "REPLICAOF", "127.0.0.1", str(free_port()))
        for verb in (("merge", stored, {"a": 2}, later()), ("delete_data", stored.session_id)):
            with pytest.raises(StrategyUnavailable):
                call(strategy, *verb)
            assert not before & connections(server)
        execute(server, "REPLICAOF", "NO", "ONE")
        assert call(strategy, "merge", stored, {"a": 2}, later()).data == {"a": 2}


def test_connections_that_a_cache_has_already_do_not_lengthen_the_wait(server, make):
    strategy = make(server.url, timeout=0.5)
    cache = caches[strategy.alias]
    cache.set("cached", 1)
    stored = strategy.insert({"a": 1}, later())
    server.pause()
    begins = time.monotonic()
    try:
        with pytest.raises(StrategyUnavailable):
            strategy.load(stored.session_id)
    finally:
        server.resume()
    assert time.monotonic() - begins < 4  # redis-py's own time-out is five seconds
    assert cache.get("cached") == 1


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_was_restarted_answers_at_once_on_every_connection(make, end):
    with Valkey() as own:
        strategy = make(own.url)

        async def main():
            stored = await strategy.ainsert({"a": 1}, later())

            async def together():
                return await asyncio.gather(*(strategy.aload(stored.session_id) for _ in range(8)))

            await together()
            await asyncio.to_thread(getattr(own, end))
            await asyncio.to_thread(own.start)
            assert [loaded.data for loaded in await together()] == [{"a": 1}] * 8

        asyncio.run(main())


def test_a_timeout_of_the_alias_goes_before_the_strategys(server, make, call):
    options = {"SOCKET_TIMEOUT": 60, "SOCKET_CONNECT_TIMEOUT": 60}
    strategy = make(server.url, options, timeout=0.05)
    stored = call(strategy, "insert", {"a": 1}, later())
    server.pause()
    threading.Timer(0.5, server.resume).start()
    assert call(strategy, "load", stored.session_id).data == {"a": 1}


@pytest.mark.parametrize("verb", ["merge", "rotate"])
@pytest.mark.parametrize("retry", [{}, {"retry": Retry(NoBackoff(), 3)}], ids=["", "retry"])
def test_a_write_whose_answer_got_lost_is_not_sent_again(server, make, call, verb, retry):
    with Tunnel(server.port) as tunnel:
        url = f"redis://127.0.0.1:{tunnel.port}/0"
        strategy = make(url, {"CONNECTION_POOL_KWARGS": retry})
        stored = call(strategy, "insert", {}, later())
        stored = call(strategy, "merge", stored, {"count": 1}, later())  # loads the script
        tunnel.loses = b"EVALSHA"
        once_more = {"count": Apply(lambda count: count + 1)}
        with watched(server) as sent, pytest.raises(StrategyUnavailable):
            call(strategy, verb, stored, once_more, later())
        assert len(sent) == 1
        held = call(strategy, "load", stored.session_id)
        assert held is None if verb == "rotate" else held.data == {"count": 2}


# -- clients, sockets, processes ------------------------------------------------------------------


def connections(server):
    with closing(server.client()) as client:
        return {int(each["id"]) for each in client.client_list()} - {client.client_id()}


def wait_until_nobody_is_connected(server):
    ends = time.monotonic() + BOUND
    while connections(server):
        assert time.monotonic() < ends


def test_each_event_loop_has_one_client_that_ends_with_it(make):
    with Valkey() as server:
        strategy = make(server.url)
        with asyncio.Runner() as one, asyncio.Runner() as other:
            stored = one.run(strategy.ainsert({"a": 1}, later()))
            (first,) = connections(server)
            for _ in range(5):
                assert one.run(strategy.aload(stored.session_id)).data == {"a": 1}
            assert connections(server) == {first}
            assert other.run(strategy.aload(stored.session_id)).data == {"a": 1}
            assert len(connections(server)) == 2
        wait_until_nobody_is_connected(server)


@pytest.mark.parametrize("pool", [{}, {"max_connections": 5}], ids=["by default", "five"])
def test_hundreds_of_requests_at_once_wait_for_a_connection(make, pool):
    async def all_at_once(server):
        strategy = make(server.url, {"CONNECTION_POOL_KWARGS": pool})
        stored = await asyncio.gather(*(strategy.ainsert({"n": n}, later()) for n in range(300)))
        assert len(connections(server)) <= pool.get("max_connections", 300)
        return await asyncio.gather(*(strategy.aload(one.session_id) for one in stored))

    with Valkey() as server:
        assert [one.data["n"] for one in asyncio.run(all_at_once(server))] == list(range(300))


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 16),
        ({"CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool"}, 3),
    ],
    ids=["by default", "a pool that lets them wait"],
)
def test_threads_share_connections_and_get_their_own_answers(make, options, most):
    def visit(strategy, n):
        stored = strategy.insert({"n": n}, later())
        return [strategy.load(stored.session_id).data["n"] for _ in range(20)] == [n] * 20

    with Valkey() as server, ThreadPoolExecutor(16) as pool:
        options = {**options, "CONNECTION_POOL_KWARGS": {"max_connections": most}}
        strategy = make(server.url, options)
        assert all(pool.map(lambda n: visit(strategy, n), range(200)))
        assert len(connections(server)) <= most


def test_calls_that_are_cancelled_leave_no_answer_for_others(server, strategy):
    async def cancel_all():
        stored = await asyncio.gather(*(strategy.ainsert({"n": n}, later()) for n in range(200)))
        server.pause()
        calls = [asyncio.create_task(strategy.aload(one.session_id)) for one in stored[::2]]
        calls += [
            asyncio.create_task(strategy.amerge(one, {**one.data, "late": 1}, later()))
            for one in stored[1::2]
        ]
        await asyncio.sleep(0.1)  # they have been sent
        for each in calls:
            each.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in ended} == {asyncio.CancelledError}
        server.resume()
        for _ in range(3):
            loads = (strategy.aload(one.session_id) for one in stored)
            assert [one.data["n"] for one in await asyncio.gather(*loads)] == list(range(200))

    try:
        asyncio.run(cancel_all())
    finally:
        server.resume()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # is multi-threaded
def test_a_forked_process_has_sockets_of_its_own(make, call):
    with Valkey() as server:  # where nobody else's connections come and go
        strategy = make(server.url)
        parents = call(strategy, "insert", {"of": "parent"}, later())
        childs = call(strategy, "insert", {"of": "child"}, later())
        here, there = socket.socketpair()
        before = connections(server)
        if (child := os.fork()) == 0:
            status = 1
            try:
                here.close()
                with asyncio.Runner() as loop:
                    loop.run(strategy.aload(childs.session_id))
                    strategy.load(childs.session_id)
                    there.sendall(b".")
                    for _ in range(300):
                        assert strategy.load(childs.session_id).data == {"of": "child"}
                        assert loop.run(strategy.aload(childs.session_id)).data == {"of": "child"}
                there.recv(1)
                status = 0
            finally:
                os._exit(status)
        there.close()
        with here:
            assert here.recv(1) == b"."
            for _ in range(600):
                assert call(strategy, "load", parents.session_id).data == {"of": "parent"}
            assert before < connections(server)
            here.sendall(b".")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
