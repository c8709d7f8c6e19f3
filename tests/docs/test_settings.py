"""The page on settings is complete."""

from __future__ import annotations

import re
from inspect import Parameter, signature

import pytest
from django.conf import global_settings
from django.test import override_settings

from django_strategy_sessions.checks import check_sessions
from django_strategy_sessions.conf import DEFAULTS
from django_strategy_sessions.strategies.postgres_connections import PostgresConnections

from ..test_checks import WRONG
from .pages import DOCS, SOURCE, resolve, rows

SETTINGS_PAGE = DOCS / "settings.md"


def test_settings_documents_each_of_ours_with_its_default(settings):
    told = {name: default for name, default, _ in rows(SETTINGS_PAGE, "Ours")}
    strategy = resolve(DEFAULTS["SESSION_STRATEGY"])
    assert told.pop("SESSION_STRATEGY").startswith(f"[{strategy.__name__}]")
    assert told.pop("SESSION_COOKIE_SECRETS") == "[SECRET_KEY, *SECRET_KEY_FALLBACKS]"
    wanted = {name: default for name, default in DEFAULTS.items() if name in told}
    assert {name: eval(default) for name, default in told.items()} == wanted
    assert told.keys() == DEFAULTS.keys() - {"SESSION_STRATEGY", "SESSION_COOKIE_SECRETS"}


def test_settings_no_setting_without_a_default_is_read():
    read = set(re.findall(r'settings(?:\.|, ")([A-Z][A-Z_]+)', SOURCE))
    django_redis = {"DJANGO_REDIS_CONNECTION_FACTORY"}
    assert {name for name in read if not hasattr(global_settings, name)} - django_redis <= (
        DEFAULTS.keys()
    )


def test_settings_documents_each_of_djangos():
    told = {name for row in rows(SETTINGS_PAGE, "Django's") for name in row[0].split(", ")}
    assert told == {name for name in dir(global_settings) if re.match("SESSION_|MESSAGE_S", name)}


STRATEGIES = re.findall(r"^`(\S+\.\w+Strategy)`: ", SETTINGS_PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", STRATEGIES)
def test_settings_documents_each_option_of_a_strategy_with_its_default(path):
    strategy = resolve(path)
    given = signature(strategy).parameters.values()
    options = [each for each in given if each.kind != Parameter.VAR_KEYWORD]
    if path.endswith("PostgresStrategy"):  # which passes them on
        more = signature(PostgresConnections).parameters.values()
        options += [each for each in more if each.kind == Parameter.KEYWORD_ONLY and each.default]
    wanted = {
        each.name: "" if each.default is each.empty else repr(each.default).replace("'", '"')
        for each in options
    }
    told = rows(SETTINGS_PAGE, strategy.__name__) if wanted else []
    assert {name: default for name, default, _ in told} == wanted


def test_settings_documents_each_of_our_strategies():
    ours = re.findall(r"^class ([A-Z]\w+Strategy)\(", SOURCE, re.MULTILINE)
    assert {path.rpartition(".")[2] for path in STRATEGIES} == {*ours} - {
        *("SealedStrategy", "EngineStrategy", "SignedCookiesStrategy"),  # which no setting names
    }


def test_settings_documents_each_check_with_its_hint(settings):
    tables = rows(SETTINGS_PAGE, "Checks") + rows(DOCS / "doctor.md", "Findings")
    told = {row[0]: row[2] for row in tables}
    named = set(re.findall(r'"(?:strategy_sessions\.)?([EWI]\d{3})"', SOURCE))
    assert told.keys() == {f"strategy_sessions.{number}" for number in named}
    for _, wrong in WRONG.values():
        with override_settings(**wrong):
            (message,) = check_sessions()
        assert squeezed(message.hint) in squeezed(told[message.id])


def squeezed(text):
    return "".join(text.replace("`", "").split())
