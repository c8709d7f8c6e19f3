"""Another server, another database, another password: what a project changes while it runs."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from contextvars import ContextVar

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections

from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.postgres import PostgresStrategy
from django_strategy_sessions.testing import later

from ..conftest import in_postgres, run_in_loop
from ..servers import Postgres, Tunnel, database
from .conftest import TABLE, pointed, wait_until


def migrate(server, **options):
    with pointed(**database(server.url, **options)):
        call_command("migrate", "django_strategy_sessions", database="postgres", verbosity=0)


def tell(server, *statements):
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in statements:
            answer = connection.execute(statement)
        return answer.fetchone() if answer.description else None


# -- a standby is promoted ------------------------------------------------------------------------


class Standby(Postgres):
    """Streams from a primary, until it is promoted."""

    def follow(self, primary):
        shutil.rmtree(self.data)
        self.data.mkdir(0o700)
        if user := self.installed.system_user:
            shutil.chown(self.data, user, user)
        program = str(self.installed.bin_path / "pg_basebackup")
        command = [program, "-D", str(self.data), "-d", primary.url, "-R", "-X", "stream"]
        subprocess.run([*command, "-c", "fast"], check=True, capture_output=True, **self.identity())
        return self.start()

    def promote(self):
        assert tell(self, "SELECT pg_promote(true, 60)") == (True,)


@pytest.fixture
def pair(django_db_setup, transactional_db):
    with Postgres(wal_level="replica") as primary:
        hba = primary.data / "pg_hba.conf"
        hba.write_text("host replication postgres 127.0.0.1/32 trust\n" + hba.read_text())
        tell(primary, "SELECT pg_reload_conf()")
        migrate(primary)
        standby = Standby()
        try:
            yield primary, standby.follow(primary)
        finally:
            standby.close()


@in_postgres
@pytest.mark.parametrize("ends", ["demoted", "killed", "stopped"])
def test_after_a_promotion_at_most_one_request_fails(pair, do, ends):
    primary, standby = pair

    def steps():
        stored = yield "insert", {"count": 0}, later()
        count = 0
        wait_until(lambda: tell(standby, f"SELECT count(*) FROM {TABLE}") == (1,))
        tunnel.leads_to = standby.port
        if ends == "demoted":
            # It goes on over connections that were kept, and takes no writes.
            tell(
                primary,
                "ALTER SYSTEM SET default_transaction_read_only = on",
                "SELECT pg_reload_conf()",
            )
            wait_until(lambda: tell(primary, "SHOW default_transaction_read_only") == ("on",))
        elif ends == "killed":
            primary.kill()
        else:
            primary.pause()
        standby.promote()
        failed = 0
        for _ in range(6):
            try:
                loaded = yield "load", stored.session_id
                merged = yield "merge", loaded, {"count": count + 1}, later()
            except StrategyUnavailable:
                failed += 1
            else:
                count += 1
                assert merged.data == {"count": count}
        assert failed <= 1
        assert count >= 5

    with (
        Tunnel(primary.port) as tunnel,
        pointed(**database(f"postgresql://postgres@127.0.0.1:{tunnel.port}/postgres")),
        pointed(CONN_MAX_AGE=None),
    ):
        do(PostgresStrategy("postgres", timeout=2), steps())


# -- a password is changed ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(django_db_setup, django_db_blocker):
    """A server that asks for passwords."""
    with Postgres() as server, django_db_blocker.unblock():
        migrate(server)
        tell(
            server,
            "CREATE ROLE shop LOGIN PASSWORD 'first'",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO shop",
        )
        hba = server.data / "pg_hba.conf"
        hba.write_text("host all shop 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        tell(server, "SELECT pg_reload_conf()")
        yield server


@in_postgres
def test_a_rotated_password_is_used_by_the_next_connection(guarded, transactional_db, do):
    settings = connections["postgres"].settings_dict

    def end_connections():
        tell(
            guarded,
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity"
            " WHERE usename = 'shop'",
        )

    def steps():
        stored = yield "insert", {"a": 1}, later()
        tell(guarded, "ALTER ROLE shop PASSWORD 'second'")
        # The connection that there is goes on.
        assert (yield "merge", stored, {"a": 2}, later())
        end_connections()
        with pytest.raises(StrategyUnavailable):
            yield "load", stored.session_id
        settings["PASSWORD"] = "second"
        for _ in range(2):
            assert (yield "load", stored.session_id).data == {"a": 2}
            end_connections()

    tell(guarded, "ALTER ROLE shop PASSWORD 'first'")
    url = f"postgresql://shop:first@127.0.0.1:{guarded.port}/postgres"
    with pointed(**database(url)), pointed(CONN_MAX_AGE=None):
        do(PostgresStrategy("postgres"), steps())


# -- the request decides which database it is -----------------------------------------------------

region: ContextVar[str] = ContextVar("region")


class ByRegion:
    def db_for_write(self, model, **hints):
        return region.get()


@pytest.fixture
def regions(guarded, settings):
    """Two databases of one server, for no test case of Django's knows the second alias."""
    settings.DATABASE_ROUTERS = [ByRegion()]
    tell(guarded, "DROP DATABASE IF EXISTS elsewhere", "CREATE DATABASE elsewhere")
    elsewhere = {**database(guarded.url), "NAME": "elsewhere"}
    with pointed(**elsewhere):
        call_command("migrate", "django_strategy_sessions", database="postgres", verbosity=0)
    connections.databases["elsewhere"] = {**connections["postgres"].settings_dict, **elsewhere}
    try:
        with pointed(**database(guarded.url)):
            yield
    finally:
        connections["elsewhere"].close()
        del connections["elsewhere"]
        del connections.databases["elsewhere"]


def test_a_router_may_decide_by_request(regions):
    region.set("postgres")
    strategy = PostgresStrategy()

    async def request(name):
        region.set(name)
        stored = await strategy.ainsert({"region": name}, later())
        for number in range(5):
            loaded = await strategy.aload(stored.session_id)
            assert loaded.data["region"] == name
            stored = await strategy.amerge(loaded, {"region": name, "n": number}, later())
        return stored.session_id

    async def main():
        names = ["postgres", "elsewhere"] * 6
        return names, await asyncio.gather(*(asyncio.create_task(request(n)) for n in names))

    names, ids = run_in_loop(main())
    for name, session_id in zip(names, ids, strict=True):
        for alias in ("postgres", "elsewhere"):
            found = PostgresStrategy(alias).load(session_id)
            assert (found is not None) == (alias == name)
