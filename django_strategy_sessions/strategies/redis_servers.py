"""Where the servers are: one server, the primary of Sentinels, or the nodes of a Cluster."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from math import inf
from typing import Any

import redis
from django.core.exceptions import ImproperlyConfigured
from redis import ConnectionPool, Redis, RedisCluster
from redis.exceptions import AskError, RedisClusterException, RedisError

from .redis_exchange import Command

Client = Redis  # of one server

# The direct counterparts, by name, of connection classes that Sentinels manage.
_DIRECT = {
    "SentinelManagedSSLConnection": redis.SSLConnection,
    "SentinelManagedConnection": redis.Connection,
}
_SOON = 100  # ms: replicas at a usual distance confirm a write within this time


class Servers(ABC):
    """Knows which server has a key: the only one, the Sentinels' primary, or a cluster node."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    @abstractmethod
    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        """Return the client for a key, without network access. ``None``: refresh first."""

    def primaries(self) -> list[Client]:
        """Return a client of each server that has sessions."""
        client = self.find("")
        if client is None:
            self.refresh()
            client = self.find("", refreshed=True)
        return [] if client is None else [client]

    @abstractmethod
    def has(self, client: Client) -> bool:
        """Return whether this is still the client of one of these servers."""

    @abstractmethod
    def refresh(self) -> None:
        """Ask where the servers are."""

    @abstractmethod
    def doubt(self, client: Client) -> None:
        """Refresh before this client, which failed, is used again."""

    def redirect(self, error: AskError) -> Client | None:
        """Return the server that a redirection names; ``None`` if it is not known yet."""
        raise ImproperlyConfigured(
            "The Redis server is a node of a cluster. Tell django-redis in the cache's OPTIONS:\n"
            '"CONNECTION_FACTORY":'
            ' "django_strategy_sessions.strategies.redis.ClusterConnectionFactory"'
        ) from error

    def waits(self, replicas: int) -> list[Command]:
        """Return the commands that follow a write. The first returns how many replicas have it."""
        return [("WAIT", replicas, int(self.timeout * 800))]

    def is_safe(self, client: Client, answers: list[Any]) -> bool:
        """Return whether these answers rule out that a server without the write became primary."""
        return True


class OneServer(Servers):
    def __init__(self, client: Client, timeout: float) -> None:
        super().__init__(client.connection_pool.connection_kwargs.get("socket_timeout") or timeout)
        self._client = client

    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        return self._client

    def has(self, client: Client) -> bool:
        return True

    def refresh(self) -> None:
        pass

    def doubt(self, client: Client) -> None:
        pass


class _DiscoveredServers(Servers):
    """Servers whose addresses must be asked for. One thread asks while the others wait."""

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self._lock = threading.Lock()
        self._begun = 0
        self._failed: Exception | None = None

    def refresh(self) -> None:
        begun = self._begun
        if not self._lock.acquire(timeout=self.timeout):
            raise redis.TimeoutError("Nobody says where the servers are.")
        try:
            if self._begun == begun:  # otherwise another thread has just asked
                self._begun += 1
                self._failed = None
                try:
                    self._ask()
                except (RedisError, RedisClusterException, OSError) as error:
                    self._failed = error
            if self._failed is not None:
                raise redis.ConnectionError("Nobody says where the servers are.") from self._failed
        finally:
            self._lock.release()

    @abstractmethod
    def _ask(self) -> None: ...


class Sentinels(_DiscoveredServers):
    """The primary, used only while its Sentinels cannot have promoted another one by themselves.

    The Sentinels are asked again before that time is over, at least twice per `timeout`, and after
    any failure. So a primary that was demoted or cut off is soon abandoned.
    """

    def __init__(self, client: Redis, timeout: float, replicas: int) -> None:
        pool: Any = client.connection_pool
        options = dict(pool.connection_kwargs)
        options.pop("connection_pool")
        super().__init__(options.get("socket_timeout") or timeout)
        self._name, self._sentinels = pool.service_name, pool.sentinel_manager.sentinels
        # If nothing may be lost, do not trust a minority of Sentinels that may be cut off.
        self._enough = len(self._sentinels) // 2 + 1 if replicas else 1
        options["connection_class"] = find_counterpart(_DIRECT, pool.connection_class)
        options["max_connections"] = pool.max_connections
        self._class, self._options = type(client), options
        self._client: Client | None = None
        self._address: tuple[str, int] | None = None
        self._ends = 0.0
        self._doubted = True
        self._strict = replicas > 0
        self._answered: dict[Redis, float] = {}  # when each last answered
        self._muted: dict[Redis, float] = {}  # those that failed, and until when to skip them
        self._replicas: set[Any] | None = None  # of this primary when the Sentinels last agreed
        self._seen: set[Any] | None = None  # replicas seen since then

    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        valid = refreshed or (time.monotonic() < self._ends and not self._doubted)
        return self._client if valid else None

    def has(self, client: Client) -> bool:
        return client is self._client

    def doubt(self, client: Client) -> None:
        if client is self._client:
            self._doubted = True

    def waits(self, replicas: int) -> list[Command]:
        # A manual failover promotes a replica while this primary still serves. So either all
        # replicas confirm, or we ask the Sentinels.
        every = ("WAIT", max(replicas, len(self._replicas or ())), _SOON)
        return [*super().waits(replicas), every, ("ROLE",)]

    def is_safe(self, client: Client, answers: list[Any]) -> bool:
        _, reached, role = answers
        if client is not self._client:
            return False
        present = {(host, port) for host, port, _ in role[2]}
        if self._replicas is not None and self._replicas <= present and reached >= len(present):
            self._replicas |= present
            return True
        self._seen = present  # other threads rely on it only once the Sentinels agree
        return False

    def _ask(self) -> None:
        asked = time.monotonic()
        thorough, self._doubted = self._doubted, False
        seen, self._seen = self._seen, None
        try:
            states = self._ask_sentinels(thorough)
            newest = max(states, key=lambda state: state["config-epoch"], default={})
            agreeing = [state for state in states if _agrees_on(state, newest)]
            if len(agreeing) < self._enough or any(map(_is_changing, states)):
                raise redis.ConnectionError("The Sentinels do not agree on a primary.")
        except BaseException:
            self._doubted, self._seen = True, seen
            raise
        if seen is not None:
            self._replicas = seen
        if (address := (newest["ip"], newest["port"])) != self._address:
            self._move(*address)
        # They promote a replica after the primary has not answered them for this long.
        patience = min(s["down-after-milliseconds"] - s["last-ok-ping-reply"] for s in states)
        self._ends = asked + min(self.timeout / 2, patience / 1000)

    def _ask_sentinels(self, thorough: bool) -> list[dict[str, Any]]:
        """Ask all of them, since only one may know yet, but mostly skip those that failed."""
        states: list[Any] = []
        now = time.monotonic()
        for sentinel in sorted(self._sentinels, key=lambda each: self._muted.get(each, 0.0)):
            muted = self._muted.get(sentinel, 0.0) > now
            if muted and not thorough and len(states) > len(self._sentinels) // 2:
                break
            try:
                states.append(sentinel.execute_command("SENTINEL MASTER", self._name))
                self._muted.pop(sentinel, None)
                self._answered[sentinel] = now
            except (RedisError, OSError):
                self._muted[sentinel] = now + self.timeout
                # This one may be promoting another primary right now.
                if thorough and self._strict and now < self._answered.get(sentinel, -inf) + 10:
                    raise
        return states

    def _move(self, host: str, port: int) -> None:
        former = self._client
        pool = ConnectionPool(**{**self._options, "host": host, "port": port})
        self._client = self._class(connection_pool=pool)
        self._address, self._replicas, self._seen = (host, port), None, None
        if former is not None:
            former.connection_pool.disconnect(inuse_connections=False)


def _agrees_on(state: dict[str, Any], primary: dict[str, Any]) -> bool:
    """Return whether a Sentinel names this primary and reaches it."""
    down = state["is_sdown"] or state["is_odown"] or not state["is_master"]
    return not down and all(state[name] == primary[name] for name in ("ip", "port"))


def _is_changing(state: dict[str, Any]) -> bool:
    return "failover_in_progress" in state["flags"]


class Cluster(_DiscoveredServers):
    def __init__(self, cluster: RedisCluster, timeout: float) -> None:
        super().__init__(cluster.get_connection_kwargs().get("socket_timeout") or timeout)
        self._cluster = cluster
        self._doubted: set[Client] = set()

    def find(self, key: Any, refreshed: bool = False) -> Client | None:
        node = self._cluster.get_node_from_key(key)
        client = self._cluster.get_redis_connection(node)
        return None if client in self._doubted and not refreshed else client

    def primaries(self) -> list[Client]:
        self.refresh()
        return list(map(self._cluster.get_redis_connection, self._cluster.get_primaries()))

    def has(self, client: Client) -> bool:
        return any(node.redis_connection is client for node in self._cluster.get_nodes())

    def doubt(self, client: Client) -> None:
        self._doubted.add(client)

    def redirect(self, error: AskError) -> Client | None:
        address = self._cluster.nodes_manager.remap_host_port(error.host, error.port)
        node = self._cluster.get_node(*address)
        return None if node is None else self._cluster.get_redis_connection(node)

    def _ask(self) -> None:
        self._doubted.clear()
        self._cluster.nodes_manager.initialize()


def find_counterpart(classes: dict[str, Any], wanted: type) -> Any:
    """Return the counterpart of a connection class, or of its nearest base that has one."""
    return next((classes[c.__name__] for c in wanted.__mro__ if c.__name__ in classes), wanted)
