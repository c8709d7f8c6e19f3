"""What is configured wrongly fails at `manage.py check`, with a line that can be pasted."""

from __future__ import annotations

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from django_strategy_sessions.strategies import get_strategy

from ..conftest import DATABASE, POSTGRES, REDIS
from .conftest import BACKENDS, ENGINE, MOVING

pytestmark = pytest.mark.django_db(databases=["default", "postgres"])

RIGHT = {"source": f"{BACKENDS}.db", "target": DATABASE, "step": "accept"}
ANOTHER_REDIS = {"BACKEND": REDIS["BACKEND"], "OPTIONS": {"alias": "sessions"}}
WRONG = {
    "an engine that does not exist": (
        {"source": f"{BACKENDS}.dbase"},
        "neither a session engine nor",
        "No module named 'django.contrib.sessions.backends.dbase'",
    ),
    "an engine whose package is missing": (
        {"source": "qsessions_of_nobody.backends.db"},
        "neither a session engine nor",
        "No module named 'qsessions_of_nobody'",
    ),
    "no engine": ({"source": "json.decoder"}, "neither a session engine nor", ""),
    "our engine": ({"source": ENGINE}, "neither a session engine nor", ""),
    "no source": ({"source": None}, "neither a session engine nor", ""),
    "no target": ({"target": "nowhere.Strategy"}, "cannot be imported", "No module named 'nowhere"),
    "a target of another kind": ({"target": {"BACKEND": MOVING}}, "does not take these", ""),
    "one database": ({"source": DATABASE, "target": DATABASE}, "are one store", ""),
    "one table": (
        {"source": {**POSTGRES, "BACKEND": DATABASE}, "target": POSTGRES},
        "are one store",
        "",
    ),
    "one Redis": ({"source": REDIS, "target": ANOTHER_REDIS}, "are one store", ""),
    "no step": ({"step": "done"}, "and then \"move\": not 'done'", ""),
}


def moving(**options):
    return {"BACKEND": MOVING, "OPTIONS": {**RIGHT, **options}}


@pytest.mark.parametrize(("options", "message", "cause"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_fails_at_check_with_a_line_to_paste(settings, options, message, cause):
    settings.SESSION_STRATEGY = moving(**options)
    (error,) = [found for found in run_checks() if found.id == "strategy_sessions.E004"]
    assert message in error.msg
    assert cause in error.msg
    pasted = {"SESSION_STRATEGY": moving(**options)}
    exec(error.hint, pasted)
    settings.SESSION_STRATEGY = pasted["SESSION_STRATEGY"]
    assert not [found for found in run_checks() if found.id == "strategy_sessions.E004"]


@pytest.mark.parametrize(("options", "message", "cause"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_fails_at_once(settings, options, message, cause):
    settings.SESSION_STRATEGY = moving(**options)
    with pytest.raises(ImproperlyConfigured, match=message):
        get_strategy()


@pytest.mark.parametrize("step", ["accept", "move"])
def test_a_check_says_what_comes_next(settings, step):
    settings.SESSION_STRATEGY = moving(step=step)
    (info,) = [found for found in run_checks() if found.id.startswith("strategy_sessions.I00")]
    pasted = {"SESSION_STRATEGY": moving(step=step)}
    exec(info.hint, pasted)
    settings.SESSION_STRATEGY = pasted["SESSION_STRATEGY"]
    assert info not in run_checks()


@pytest.mark.parametrize("source", [f"{BACKENDS}.db", REDIS], ids=["an engine", "ours"])
def test_the_app_of_an_engine_has_to_stay_until_its_sessions_have_moved(settings, source):
    settings.SESSION_STRATEGY = moving(source=source)
    found = [each.id for each in run_checks(include_deployment_checks=True)]
    assert ("strategy_sessions.W009" in found) == (source == REDIS)
