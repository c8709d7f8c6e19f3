"""The test suites of django-formtools and django-two-factor-auth pass on our engine, unchanged.

They come from the source distributions of the versions that are installed, and run as their own
projects run them: in a process of their own, whose settings differ by our engine and its stores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from .. import sdists, servers
from ..conftest import DATABASE, DJANGOS, MEMORY, OURS

POSTGRES = "django_strategy_sessions.strategies.postgres.PostgresStrategy"
REDIS = {
    "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",
    "OPTIONS": {"alias": "sessions"},
}
SETTINGS = f"""
import json, os

from tests.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "django_strategy_sessions"]
SESSION_ENGINE = "django_strategy_sessions.engine"
SESSION_STRATEGY = json.loads(os.environ["TEST_STRATEGY"])
MIDDLEWARE = list(MIDDLEWARE)
MIDDLEWARE[MIDDLEWARE.index("{DJANGOS}")] = os.environ["TEST_MIDDLEWARE"]
SECRET_KEY = SECRET_KEY.ljust(32, "-")
DATABASES = json.loads(os.environ["TEST_DATABASES"])
CACHES = {{**globals().get("CACHES", {{}}), **json.loads(os.environ["TEST_CACHES"])}}
"""
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "sessions": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": servers.redis_url()},
}
STRATEGIES = {"memory": MEMORY, "database": DATABASE, "postgres": POSTGRES, "redis": REDIS}


@pytest.fixture(params=[DJANGOS, OURS], ids=["djangos", "ours"])
def middleware(request):
    return request.param


@pytest.fixture(params=STRATEGIES)
def suite(request, middleware, tmp_path):
    """Run the tests of a folder, and fail with what their process says."""
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    postgres = servers.database(servers.postgres_url())
    postgres["TEST"] = {**postgres["TEST"], "NAME": f"test_suite_{os.getpid()}"}
    database = postgres if request.param == "postgres" else sqlite
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "site_settings",
        "TEST_STRATEGY": json.dumps(STRATEGIES[request.param]),
        "TEST_MIDDLEWARE": middleware,
        "TEST_DATABASES": json.dumps({"default": database}),
        "TEST_CACHES": json.dumps(CACHES),
    }
    environment.pop("PYTEST_ADDOPTS", None)

    def run(*folders):
        for folder in folders:
            shutil.copytree(folder, tmp_path / "tests", dirs_exist_ok=True)
        (tmp_path / "site_settings.py").write_text(SETTINGS)
        # Alone on the path: their package is called `tests`, as ours is.
        where = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
        command = ["test", "--noinput", "--verbosity=1", "tests"]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "django", *command],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": where},
            text=True,
            capture_output=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert "NO TESTS RAN" not in done.stderr

    return run


def test_formtools(suite):
    source = sdists.fetched("django-formtools", version("django-formtools"), "tests")
    suite(source / "tests")


def test_two_factor_auth(suite):
    name = "django-two-factor-auth"
    source = sdists.fetched(name, version(name), "tests")
    suite(source / "tests", Path(__file__).parent / "two_factor_site")
