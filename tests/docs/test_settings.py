"""The page on settings is complete."""

from __future__ import annotations

import re
from inspect import signature

import pytest
from django.conf import global_settings
from django.test import override_settings

from django_strategy_sessions import conf, records
from django_strategy_sessions.checks import check_sessions

from ..test_checks import WRONG
from .pages import DOCS, SOURCE, resolve, rows

SETTINGS_PAGE = DOCS / "settings.md"


def test_settings_every_one_of_ours_is_told_with_its_default(settings):
    read = set(re.findall(r'settings(?:\.|, ")([A-Z][A-Z_]+)', SOURCE))
    told = {name: default for name, default, _ in rows(SETTINGS_PAGE, "Ours")}
    assert told.keys() == {name for name in read if not hasattr(global_settings, name)}
    assert told["SESSION_STRATEGY"].startswith(f"[{resolve(conf.DEFAULT_STRATEGY).__name__}]")
    assert eval(told["SESSION_MAX_SIZE"]) == records.DEFAULT_MAX_SIZE


def test_settings_every_one_of_djangos_is_told():
    told = {name for row in rows(SETTINGS_PAGE, "Django's") for name in row[0].split(", ")}
    assert told == {name for name in dir(global_settings) if re.match("SESSION_|MESSAGE_S", name)}


STRATEGIES = re.findall(r"^`(\S+\.\w+Strategy)`: ", SETTINGS_PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", STRATEGIES)
def test_settings_every_option_of_a_strategy_is_told_with_its_default(path):
    strategy = resolve(path)
    options = signature(strategy).parameters.values()
    wanted = {each.name: repr(each.default).replace("'", '"') for each in options}
    told = rows(SETTINGS_PAGE, strategy.__name__) if wanted else []
    assert {name: default for name, default, _ in told} == wanted


def test_settings_every_strategy_of_ours_is_told():
    ours = re.findall(r"^class ([A-Z]\w+Strategy)\(", SOURCE, re.MULTILINE)
    assert {path.rpartition(".")[2] for path in STRATEGIES} == {*ours} - {"NativeStrategy"}


def test_settings_every_check_is_told_with_its_hint(settings):
    told = {row[0]: row[2] for row in rows(SETTINGS_PAGE, "Checks")}
    assert told.keys() == set(re.findall(r"strategy_sessions\.[EW]\d{3}", SOURCE))
    for _, wrong in WRONG.values():
        with override_settings(**wrong):
            (message,) = check_sessions()
        assert squeezed(message.hint) in squeezed(told[message.id])


def squeezed(text):
    return "".join(text.replace("`", "").split())
