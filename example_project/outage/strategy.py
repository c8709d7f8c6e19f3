"""The site's strategy, with a switch."""

from django.conf import settings
from django.utils.module_loading import import_string

from django_strategy_sessions.strategies.base import StrategyUnavailable

VERBS = {"load", "insert", "merge", "rotate", "delete_data"}  # those that the engine calls


class SwitchedStrategy(import_string(settings.STRATEGY)):
    off = False  # only in this process; the store itself keeps running

    def __getattribute__(self, name):
        if SwitchedStrategy.off and name.removeprefix("a") in VERBS:
            raise StrategyUnavailable("The store is switched off, on the page /outage/.")
        return super().__getattribute__(name)
