"""uWSGI as it is without options: it forks in C, from a master that has asked both stores."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..servers import Postgres, Server, Valkey, database

PROGRAM = Path(sys.executable).with_name("uwsgi")
MODULE = "django_strategy_sessions.strategies"
TIMEOUT = 2
STRATEGIES = {
    "database": f"{MODULE}.database.DatabaseStrategy",
    "postgres": {
        "BACKEND": f"{MODULE}.postgres.PostgresStrategy",
        "OPTIONS": {"timeout": TIMEOUT},
    },
    "cached": {
        "BACKEND": f"{MODULE}.cached.CachedStrategy",
        "OPTIONS": {
            "cache": {
                "BACKEND": f"{MODULE}.redis.RedisStrategy",
                "OPTIONS": {"alias": "default"},
            },
            "store": f"{MODULE}.postgres.PostgresStrategy",
        },
    },
}
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="not installed: tox -e setups")


class UWSGI(Server):
    def __init__(self, site: dict[str, object]) -> None:
        super().__init__()
        self.site = site

    def command(self) -> list[str]:
        return [
            *(str(PROGRAM), "--master", "--processes=4", "--need-app", "--die-on-term"),
            *(f"--http-socket=127.0.0.1:{self.port}", "--module=tests.setups.forked_site"),
        ]

    def identity(self) -> dict[str, object]:
        return {
            "cwd": Path(__file__).parents[2],
            "env": {**os.environ, "FORKED_SITE": json.dumps(self.site)},
        }

    def answers(self) -> bool:
        try:
            return self.get("?number=0")[0] == 200
        except OSError:
            return False

    def get(self, query: str, cookie: str = ""):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{query}", headers={"Cookie": cookie}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                sent = (response.headers["Set-Cookie"] or "").partition(";")[0]
                return response.status, json.load(response), sent
        except urllib.error.HTTPError as error:
            return error.code, {}, ""


@pytest.fixture(scope="module")
def postgres():
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def valkey():
    with Valkey("--appendonly", "no") as server:
        yield server


@pytest.fixture(params=STRATEGIES)
def site(request, postgres, valkey):
    kept = {**database(postgres.url), "CONN_MAX_AGE": None}
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": valkey.url}
    strategy = STRATEGIES[request.param]
    given = {"database": kept, "caches": {"default": cache}, "strategy": strategy}
    with UWSGI(given) as running:
        yield running


def test_workers_do_not_share_the_connection_of_their_master(site):
    def browse(number):
        status, answer, cookie = site.get(f"?number={number}")
        answers = [(status, answer.get("number"))]
        pids = {answer.get("pid")}
        for _ in range(40):
            status, answer, _ = site.get("?number=none", cookie)
            answers.append((status, answer.get("number")))
            pids.add(answer.get("pid"))
        return number, answers, pids

    with ThreadPoolExecutor(8) as browsers:
        seen = list(browsers.map(browse, range(16)))
    for number, answers, _ in seen:
        assert answers == [(200, str(number))] * 41
    assert len(set().union(*(pids for _, _, pids in seen))) == 4


@pytest.mark.parametrize("site", ["cached"], indirect=True)
def test_after_a_logout_no_worker_reads_its_copy(site):
    for number in range(5):
        _, _, cookie = site.get(f"?number={number}")
        for _ in range(20):
            assert site.get("?number=none", cookie)[1]["number"] == str(number)
        assert site.get("leave", cookie)[0] == 200
        for _ in range(20):
            assert site.get("?number=none", cookie)[1]["number"] == "none"


@pytest.mark.parametrize("site", ["postgres"], indirect=True)
def test_a_server_that_hangs_is_given_up_without_enable_threads(site, postgres):
    """Other threads run while one waits for the server, so the watchdog does."""
    _, _, cookie = site.get("?number=1")
    postgres.pause()
    try:
        started = time.monotonic()
        status, _, _ = site.get("?number=1", cookie)
        assert status == 503
        assert time.monotonic() - started < TIMEOUT + 3
    finally:
        postgres.resume()
    assert site.get("?number=none", cookie)[:2][1]["number"] == "1"
