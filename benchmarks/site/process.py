"""The site on a real server, in a process of its own."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

from tests.servers import Server

COMMANDS = {
    "wsgi": "gunicorn benchmarks.site.wsgi --worker-class gthread --threads {at_once}"
    " --keep-alive 60 --log-level warning --bind 127.0.0.1:{port}",
    "asgi": "uvicorn benchmarks.site.asgi:application --no-access-log --log-level warning"
    " --timeout-keep-alive 60 --port {port}",
}
# Where requests are threads of Django's for a moment, connections come from a pool.
DATABASE = {"wsgi": "default", "asgi": "pooled"}


def environment(store: str, side: str, database: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "benchmarks.site.settings",
        "BENCHMARK_STORE": store,
        "BENCHMARK_SIDE": side,
        "BENCHMARK_DATABASE": database,
    }


class Site(Server):
    def __init__(self, interface: str, store: str, side: str, at_once: int) -> None:
        super().__init__()
        self.interface, self.at_once = interface, at_once
        self.environment = environment(store, side, DATABASE[interface])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.interface}/"

    def command(self) -> list[str]:
        command = COMMANDS[self.interface].format(port=self.port, at_once=self.at_once)
        return [sys.executable, "-m", *command.split()]

    def identity(self) -> dict[str, object]:
        return {"env": self.environment}

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False
