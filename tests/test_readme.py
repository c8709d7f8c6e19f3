"""What the README shows is true."""

from __future__ import annotations

import ast
import json
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from django_strategy_sessions import SessionStrategy
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.strategies import base
from django_strategy_sessions.testing import StrategyContract

from .test_contract_catches import Unreachable

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDE = base.__doc__


def code(start, text=README, **given):
    """The Python block of a text that holds `start`, executed: what it defines."""
    blocks = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if start in block
    ]
    (block,) = blocks
    names = {
        "SessionStrategy": SessionStrategy, "StrategyContract": StrategyContract,
        "HttpResponse": HttpResponse, "secrets": secrets, "json": json,
        "datetime": datetime, "UTC": UTC, **given,
    }  # fmt: skip
    exec(compile(ast.parse(block), "README.md", "exec"), names)
    return names


class TestTheStrategyOfTheReadme(StrategyContract):
    def make_strategy(self):
        return code("class DictStrategy")["DictStrategy"]()

    def make_unavailable_strategy(self):
        return Unreachable()


def test_the_guide_shows_the_same_strategy():
    readme = re.search(r"class DictStrategy.*?(?=```)", README, re.DOTALL)[0]
    guide = re.search(r"class DictStrategy.*?\n\n(?=Prove)", GUIDE, re.DOTALL)[0]
    assert "".join(readme.split()) == "".join(guide.split())


@pytest.mark.django_db
def test_the_views_of_the_readme():
    views = code("def add(request)")
    request = RequestFactory().get("/")
    request.session = SessionStore()
    views["add"](request)
    views["add"](request)
    request.session.save()
    request.session = SessionStore(request.session.session_key)
    assert request.session["visits"] == 2
    assert views["show"](request).content == b"Saved."
    request.session.save()
    assert views["show"](request).content == b"Saved."
    request.session = SessionStore(request.session.session_key)
    assert views["show"](request).content == b""


def test_the_settings_of_the_readme(settings):
    given = code("SESSION_ENGINE", INSTALLED_APPS=["an app"])
    assert given["SESSION_ENGINE"] == settings.SESSION_ENGINE
    assert given["INSTALLED_APPS"] == ["an app", "django_strategy_sessions"]


def test_the_two_commands_of_the_readme():
    commands = re.findall(r"^\$ (python3 manage.py \w+)$", README, re.MULTILINE)
    assert commands == ["python3 manage.py demo", "python3 manage.py test"]
    assert commands[1] in (ROOT / ".ci" / "run").read_text()
