"""A small shop, in the releases that `manage.py demomove` deploys: EXAMPLE_RELEASE names one."""

import os

from ..settings import *  # noqa: F403

OLD_ENGINE = "django.contrib.sessions.backends.db"
STRATEGY = "django_strategy_sessions.strategies.database.DatabaseStrategy"


def moving(step):
    return {
        "BACKEND": "django_strategy_sessions.strategies.moving.MovingStrategy",
        "OPTIONS": {"source": OLD_ENGINE, "target": STRATEGY, "step": step},
    }


RELEASES = {
    "old": {"SESSION_ENGINE": OLD_ENGINE},
    "accept": {"SESSION_STRATEGY": moving("accept")},
    "move": {"SESSION_STRATEGY": moving("move")},
    "done": {"SESSION_STRATEGY": STRATEGY},
}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_strategy_sessions",
]
ROOT_URLCONF = "example_project.move.urls"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
globals().update(RELEASES[os.environ["EXAMPLE_RELEASE"]])
