"""The pages: their blocks of code, and what their prose names."""

from __future__ import annotations

import re
import tomllib
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from django.db.models.signals import post_save, pre_delete

import django_strategy_sessions
from django_strategy_sessions.signals import session_ended, session_event

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = Path(django_strategy_sessions.__file__).parent
SOURCE = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
PUBLIC = "engine|middleware|records|signing|strategies|testing"  # modules, by their short names
PROJECT_TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))) + SOURCE

SIGNALS = [post_save, pre_delete, session_ended, session_event]
PAGES = sorted(
    [path for path in DOCS.rglob("*.md") if "_build" not in path.parts] + [*ROOT.glob("*.md")]
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))

LANGUAGES = {"python", "console", "sql", "text", "html", "{toctree}", "{eval-rst}"}
# Settings that blocks add to.
PROJECT = """
from pathlib import Path
BASE_DIR = Path(__file__).parent
SECRET_KEY = "of a project that only its check ever sees: 0123456789abcdef"
ROOT_URLCONF = "urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
SESSION_ENGINE = "django_strategy_sessions.engine"
"""
INSTALL = 'INSTALLED_APPS += ["django_strategy_sessions"]\n'
# What the README's blocks leave out, for its reader to fill in.
README_IMPORTS = """
import json, secrets
from datetime import UTC, datetime
from django.http import HttpResponse
from django_strategy_sessions import SessionStrategy
from django_strategy_sessions.testing import StrategyContract
"""

# Not executed with the rest of their page: settings, and what receives signals from then on, which
# tests of their own connect and disconnect again.
ELSEWHERE = {"settings.py", "receivers.py", "consumers.py", "metrics.py", "telemetry.py"}


class Block(NamedTuple):
    language: str
    line: int
    code: str

    @property
    def file(self):
        """The name of the file that it is said to be in."""
        named = re.match(r"# (\w+\.py)\n", self.code)
        return named and named[1]


@cache
def blocks(page):
    found = re.finditer(r"^```(\S*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(m[1], m.string.count("\n", 0, m.start(2)), m[2]) for m in found]


def python(page):
    return [block for block in blocks(page) if block.language == "python"]


@cache
def run(page):
    """The namespace of a page whose blocks were executed."""
    names = {"__name__": f"docs.{page.stem}"}
    if page.name == "README.md":
        exec(README_IMPORTS, names)
    for block in python(page):
        if block.file not in ELSEWHERE:
            # A traceback shows the line of the page.
            exec(compile("\n" * block.line + block.code, page, "exec"), names)
    return names


@contextmanager
def received(page, file):
    """The names of a page's file that connects receivers of signals, connected for this long."""
    (code,) = [block.code for block in python(DOCS / page) if block.file == file]
    names = {"__name__": f"docs.{file}"}
    before = [(signal, list(signal.receivers)) for signal in SIGNALS]
    exec(compile(code, file, "exec"), names)
    try:
        yield names
    finally:
        for signal, receivers in before:
            signal.receivers = receivers
            signal.sender_receivers_cache.clear()


def names_of(page):
    return run(DOCS / page)


def prose(page):
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def spans(page):
    """What is in backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def rows(page, heading):
    """The cells of the first table under a heading, without backticks."""
    section = page.read_text().partition(f"# {heading}\n")[2].partition("\n## ")[0]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    lines = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return [[cell.strip().replace("`", "") for cell in line] for line in lines]


def resolve(path):
    """What a dotted path names: a module, or something in one. Raises if it names nothing."""
    module, _, rest = path.partition(".")
    found = import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        found = getattr(found, part, None) or import_module(module)
    return found
