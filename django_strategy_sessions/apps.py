from typing import Any

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from .strategies import forks  # noqa: F401  (notes who opens connections, from here on)


class StrategySessionsConfig(AppConfig):
    name: str = "django_strategy_sessions"
    verbose_name: Any = _("Sessions")

    def ready(self) -> None:
        from . import checks, sign_ins  # noqa: F401  (they register themselves)
