from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class StrategySessionsConfig(AppConfig):
    name = "django_strategy_sessions"
    verbose_name = _("Sessions")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers them)
