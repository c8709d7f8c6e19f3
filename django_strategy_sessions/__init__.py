"""A Django session engine whose storage is a pluggable strategy."""

from .strategies.base import SessionStrategy, StrategyUnavailable

__all__ = ["SessionStrategy", "StrategyUnavailable"]
__version__ = "0.1.0"
