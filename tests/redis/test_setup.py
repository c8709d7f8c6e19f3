"""How `RedisStrategy` is set up: aliases, pools, sockets, TLS, users."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from hashlib import sha256
from pathlib import Path

import django_redis
import pytest
from django.core.exceptions import ImproperlyConfigured
from django_redis.cache import RedisCache
from redis.credentials import UsernamePasswordCredentialProvider

from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.redis import RedisStrategy
from django_strategy_sessions.testing import EVERYTHING, later

from ..servers import Tunnel, Valkey
from .conftest import connections, execute, watched


class OurCache(RedisCache):
    pass


@pytest.mark.parametrize("alias", ["default", "missing", "django's"])
def test_an_alias_that_is_not_django_redis_is_an_error_with_settings_to_paste(
    settings, server, alias
):
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
    assert RedisStrategy(alias).clients.alias == alias


def test_a_subclass_of_django_redis_works(settings, server):
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
def test_the_connections_use_the_options_of_the_alias(server, make, call, pool):
    check_every_verb(make(server.url, {"CONNECTION_POOL_KWARGS": pool}), call)


def test_a_unix_socket_works(server, make, call):
    check_every_verb(make(f"unix://{server.folder}/valkey.sock?db=0"), call)


def test_tls_works(through_tls, certificates, make, call):
    url = f"rediss://localhost:{through_tls.port}/0"
    check_every_verb(make(url, tls(certificates, "authority")), call)
    with pytest.raises(StrategyUnavailable):
        call(make(url, tls(certificates, "stranger")), "load", "AAAAAAAAAAAAAAAAAAAAAA")


@pytest.mark.parametrize("kind", ["TCP", "a socket", "TLS"])
def test_each_kind_of_connection_is_asked_for_the_process_once_more_when_it_connects_anew(
    server, through_tls, certificates, make, call, kind
):
    url = {
        "TCP": server.url,
        "a socket": f"unix://{server.folder}/valkey.sock?db=0",
        "TLS": f"rediss://localhost:{through_tls.port}/0",
    }[kind]
    options = tls(certificates, "authority") if kind == "TLS" else {}
    clients = make(url, options).clients
    _, process = call(clients, "identify", "GET", "session:any")
    for each in connections(server):
        execute(server, "CLIENT", "KILL", "ID", each)
    with watched(server) as sent:
        call(clients, "execute", "GET", "session:any")
        for _ in range(2):
            assert call(clients, "identify", "GET", "session:any") == (None, process)
    assert sent.count("INFO server") == 1


def test_the_connections_use_the_user_and_password_of_the_alias(server, make, call):
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    (least,) = re.findall(r"^user shop on >\S+ (.+)$", page, flags=re.MULTILINE)
    execute(server, "ACL", "SETUSER", "ada", "on", ">secret", *least.split())
    url = f"redis://ada:secret@127.0.0.1:{server.port}/0"
    strategy = make(url)
    check_every_verb(strategy, call)
    stored = call(strategy, "insert", {"_auth_user_id": "ada"}, later())
    stored = call(strategy, "rotate", stored, stored.data, later())
    (owned,) = call(strategy, "find_owned", "ada")
    assert call(strategy, "end_owned", "ada", [owned.reference]) == 1
    index = f"session:owner:{sha256(b'ada').hexdigest()[:32]}"
    execute(server, "ZADD", index, "1", "gone long ago")
    assert call(strategy, "find_owned", "ada") == []
    if django_redis.VERSION >= (7,):  # an older one ignores USERNAME
        check_every_verb(make(server.url, {"USERNAME": "ada", "PASSWORD": "secret"}), call)
    execute(server, "ACL", "DELUSER", "ada")


def test_kept_connections_use_a_renewed_password(server, make):
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
        strategy.clients._servers().find("").connection_pool.re_auth_callback(Token())
        assert strategy.load(stored.session_id).data == {"a": 1}
    assert [command.split()[0] for command in sent] == ["AUTH", "GET"]
    execute(server, "ACL", "DELUSER", "ada")


def test_replicas_are_never_queried(server, make, call):
    with Valkey("--replicaof", "127.0.0.1", str(server.port)) as replica:
        strategy = make([server.url, replica.url])
        with watched(replica) as sent:
            check_every_verb(strategy, call)
        assert not [command for command in sent if command.split()[0] == "GET"]
