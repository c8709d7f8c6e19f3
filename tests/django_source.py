"""Django's own session tests, from the source distribution of the Django that is installed."""

from __future__ import annotations

from pathlib import Path

import django

from . import sdists


def fetched() -> Path:
    """The folder that holds the package ``sessions_tests``, to go on ``sys.path``."""
    names = ("tests/sessions_tests", "tests/messages_tests")
    return sdists.fetched("django", django.__version__, *names) / "tests"
