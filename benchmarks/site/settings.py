"""The site with the sessions of one side, which variables name."""

import os

from .. import settings as common
from ..settings import *  # noqa: F403

_store, _side = os.environ["BENCHMARK_STORE"], os.environ["BENCHMARK_SIDE"]

DATABASES = {"default": common.DATABASES[os.environ["BENCHMARK_DATABASE"]]}
DATABASE_ROUTERS = []  # one side, one database
SESSION_ENGINE = common.ENGINES[_store].get(_side, common.ENGINES[_store]["ours"])
SESSION_STRATEGY = (common.MOVING if _side == "moving" else common.STRATEGIES)[_store]
ROOT_URLCONF = "benchmarks.site.views"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    common.middleware(_side),
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
