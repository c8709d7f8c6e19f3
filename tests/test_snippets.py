"""Settings that the pages show can be pasted: they end no protection, no app, no other setting."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import django
import pytest
from django.contrib.auth.models import User
from django.template import Context, Engine

import django_strategy_sessions
from django_strategy_sessions.engine import SessionStore

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text() for page in PAGES}
BLOCK = re.compile(r"^```python\n(# settings\.py\n.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = {name: BLOCK.findall(text) for name, text in TEXT.items()}
TEMPLATE = Path(django.__file__).parent / "conf/project_template/project_name/settings.py-tpl"
SESSIONS = "django.contrib.sessions"

every_page = pytest.mark.parametrize("page", [name for name, blocks in BLOCKS.items() if blocks])


def new_project():
    """The settings of ``startproject``, with the caches that two pages add to."""
    given = {"project_name": "shop", "secret_key": "s" * 50}
    names = {"__file__": __file__, "CACHES": {}}
    exec(Engine().from_string(TEMPLATE.read_text()).render(Context(given)), names)
    return names


@every_page
def test_pasted_settings_lose_no_app_and_no_middleware(page, monkeypatch):
    monkeypatch.setenv("SESSION_SECRET", "s" * 32)
    before, names = new_project(), new_project()
    for block in BLOCKS[page]:
        exec(block, names)
        for setting in ("INSTALLED_APPS", "MIDDLEWARE"):
            lost = set(before[setting]) - set(names[setting])
            assert not {one for one in lost if SESSIONS not in one}, block
            assert len(names[setting]) == len(set(names[setting])), block
        classes = [name.rpartition(".")[2] for name in names["MIDDLEWARE"]]
        assert classes == [name.rpartition(".")[2] for name in before["MIDDLEWARE"]], block


@pytest.mark.parametrize("page", TEXT)
def test_no_setting_is_assigned_twice_in_one_block(page):
    for block in re.findall(r"^```python\n(.*?)^```$", TEXT[page], re.DOTALL | re.MULTILINE):
        assigned = [
            target.id
            for node in ast.parse(block).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id.isupper()
        ]
        assert len(assigned) == len(set(assigned)), block


@every_page
def test_no_pasted_setting_keeps_connections_of_threads_that_are_gone(page):
    # On ASGI each request of a sync view can have a thread of its own.
    assert not [block for block in BLOCKS[page] if "CONN_MAX_AGE" in block]


def test_the_install_lines_name_the_version_and_the_kind_of_psycopg():
    version = ".".join(django_strategy_sessions.__version__.split(".")[:2])
    lines = [
        line
        for text in TEXT.values()
        for line in re.findall(r"^\$ (?:python -m )?pip install (.*)$", text, re.MULTILINE)
        if "django-strategy-sessions" in line
    ]
    assert lines
    for line in lines:
        assert f"~={version}.0" in line, line
        assert ("[postgres" in line) == ("psycopg[" in line), line


def test_the_newest_version_in_the_changelog_is_ours_and_has_a_date():
    heading = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    version, _, date = heading.partition(" - ")
    assert version == django_strategy_sessions.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)


def test_the_extra_for_redis_brings_the_fast_parser():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any("hiredis" in needed for needed in extras["optional-dependencies"]["redis"])


@pytest.mark.django_db
def test_the_answer_to_log_out_everywhere_does_that_and_nothing_else():
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT["faq.md"], re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if "def log_out_everywhere" in block]
    exec(block, names := {})
    keys = {}
    for owner in ("7", "70"):
        session = SessionStore()
        session["_auth_user_id"] = owner
        session.save()
        keys[owner] = session.session_key
    names["log_out_everywhere"](User(pk=7))
    assert [SessionStore().exists(keys[owner]) for owner in ("7", "70")] == [False, True]
