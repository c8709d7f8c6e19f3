"""What a stranger installs works: the built wheel, with each extra, in an empty project.

Not collected by itself, for it builds and installs: ``tox -e release``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from .servers import postgres_url, redis_url

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTINGS = re.search(r"```python\n(# settings.py\n.*?)```", README, re.DOTALL)[1]

# By extra: what else the project installs, and its settings.
PROJECTS = {
    "": ([], ""),
    "progress": ([], ""),
    "postgres": (
        ["psycopg-binary"],
        """
from urllib.parse import urlsplit
url = urlsplit(os.environ["TEST_POSTGRES_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.lstrip("/"),
        "USER": url.username,
        "PASSWORD": url.password,
        "HOST": url.hostname,
        "PORT": url.port,
    }
}
SESSION_STRATEGY = "django_strategy_sessions.strategies.postgres.PostgresStrategy"
""",
    ),
    "redis": (
        [],
        """
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "sessions": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ["TEST_REDIS_URL"],
    }
}
SESSION_STRATEGY = {
    "BACKEND": "django_strategy_sessions.strategies.redis.RedisStrategy",
    "OPTIONS": {"alias": "sessions"},
}
""",
    ),
}

VISIT = """
from django.contrib.auth.models import User
from django.test import Client

client = Client(headers={"host": "localhost"})
client.force_login(User.objects.create_user("visitor"))
session = client.session
session["cart"] = ["tea"]
session.save()
assert client.session["cart"] == ["tea"]
assert client.get("/admin/").status_code == 302  # known, but no staff
from django.test import override_settings

with override_settings(ROOT_URLCONF="django_strategy_sessions.urls", LANGUAGE_CODE="de"):
    assert "Wo Sie angemeldet sind" in client.get("/").content.decode()
client.logout()
assert "cart" not in client.session
User.objects.all().delete()

from django.test import RequestFactory
from django.utils import translation
from django_strategy_sessions.unavailable import service_unavailable

with translation.override("de"):
    page = service_unavailable(RequestFactory().get("/"))
assert "angemeldet" in page.content.decode()
print("visited")
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    _run(sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir())
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("extra", PROJECTS)
def test_the_wheel_works_in_an_empty_project(wheel, tmp_path, extra):
    more, settings = PROJECTS[extra]
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    wanted = f"{wheel}[{extra}]" if extra else wheel
    _run(python, "-m", "pip", "install", "--quiet", wanted, *more)
    installed = _run(python, "-m", "pip", "list")
    assert "pytest" not in installed
    assert ("tqdm" in installed) == (extra == "progress")
    _run(python, "-m", "django", "startproject", "project", tmp_path)
    with (tmp_path / "project" / "settings.py").open("a") as file:
        file.write("\nimport os\n")
        file.write(SETTINGS + settings)
    manage = python, "-W", "error", tmp_path / "manage.py"
    assert "no issues" in _run(*manage, "check")
    _run(*manage, "migrate")
    assert "visited" in _run(*manage, "shell", "--command", VISIT)
    _run(*manage, "clearexpiredsessions")


def _run(*command: object) -> str:
    """What a command says; it has to succeed."""
    given = {
        **os.environ,
        "TEST_POSTGRES_URL": postgres_url(),
        "TEST_REDIS_URL": redis_url(),
    }
    given.pop("DJANGO_SETTINGS_MODULE", None)
    given.pop("PYTHONPATH", None)
    done = subprocess.run(
        list(map(str, command)), env=given, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
