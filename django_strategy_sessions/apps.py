from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from .strategies import forks  # noqa: F401  (notes who opens connections, from here on)


class StrategySessionsConfig(AppConfig):
    name: str = "django_strategy_sessions"
    verbose_name: Any = _("Sessions")

    def ready(self) -> None:
        from . import checks, sign_ins  # noqa: F401  (they register themselves)
        from .models import deleting_rows

        deleting_rows.connect(_make_strategy)


def _make_strategy(**kwargs: Any) -> None:
    """A cache has to hear of rows that the project's own code deletes, also in a process that uses
    no session."""
    from .strategies import get_strategy

    with suppress(ImproperlyConfigured):  # `check` reports it
        get_strategy()
