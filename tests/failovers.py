"""Redis with replicas, under load while its primaries fail: for `test_redis_failovers`.

Workers write, load and delete keys all the time, through the strategy's own plumbing, each from a
process of its own. What was acknowledged has to hold, whatever happens to the servers meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from uuid import uuid4

import redis

from .servers import Sentinel, Tunnel, Valkey, free_port

TIMEOUT = 2  # seconds: of the strategy
PATIENCE = 60  # until servers have found together again
CLIENTS = "127.0.0.1"
TASKS = 4  # in each worker


# -- servers that fail -----------------------------------------------------------------------------


class Servers:
    """Some Valkeys; each is reached through a tunnel and connects from an address of its own."""

    # How a primary fails: each a method that takes it.
    KINDS = ("order", "kill", "stop", "cut_off", "cut_off_with_clients")

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes: list[Valkey] = []
        self.tunnels: dict[Valkey, Tunnel] = {}
        self.buses: dict[Valkey, Tunnel] = {}
        self.sources: dict[Valkey, str] = {}

    def __enter__(self):
        with self._stack as stack:
            self.begin()
            self.settle()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        raise NotImplementedError

    def cache(self) -> dict[str, object]:
        """The entry of ``CACHES``."""
        raise NotImplementedError

    def primaries(self) -> list[Valkey]:
        raise NotImplementedError

    def order(self, node: Valkey) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Wait until all have their replicas again."""
        raise NotImplementedError

    def add(self, *options: str) -> Valkey:
        node = Valkey(*options)
        self.tunnels[node] = self._stack.enter_context(Tunnel(node.port))
        self.sources[node] = f"127.0.1.{len(self.nodes) + 1}"
        port = str(self.tunnels[node].port)
        node.options += (
            "--bind-source-addr",
            self.sources[node],
            "--repl-diskless-sync-delay",
            "0",
        )
        node.options += ("--repl-ping-replica-period", "1", "--repl-timeout", "5")
        node.options += self.announced(node, port)
        self.nodes.append(node)
        return node

    def announced(self, node: Valkey, port: str) -> tuple[str, ...]:
        return ("--replica-announce-ip", CLIENTS, "--replica-announce-port", port)

    def at(self, port: int) -> Valkey:
        return next(node for node in self.nodes if self.tunnels[node].port == port)

    def fail(self, kind: str) -> None:
        """Let some primary fail until another is one, then bring it back."""
        node = random.choice(self.primaries())
        getattr(self, kind)(node)
        self.wait(lambda: node not in self.primaries(), f"{kind}: no replica is promoted")
        if kind == "kill":
            node.start()
        node.resume()
        for tunnel in (*self.tunnels.values(), *self.buses.values()):
            tunnel.holds = tunnel.lets_pass = frozenset()
        self.settle()

    def kill(self, node: Valkey) -> None:
        node.kill()

    def stop(self, node: Valkey) -> None:
        node.pause()

    def cut_off(self, node: Valkey) -> None:
        """Nothing gets through from it or to it; it arrives later."""
        for other in self.nodes:
            for tunnels in (self.tunnels, self.buses):
                if other in tunnels:
                    tunnels[other].holds = frozenset({"*" if other is node else self.sources[node]})

    def cut_off_with_clients(self, node: Valkey) -> None:
        """Clients still reach it, but no other server does."""
        self.tunnels[node].lets_pass = frozenset({CLIENTS})
        self.cut_off(node)

    def wait(self, condition, otherwise: str) -> None:
        ends = time.monotonic() + PATIENCE
        while True:
            with suppress(redis.RedisError, OSError):
                if condition():
                    return
            if time.monotonic() > ends:
                raise RuntimeError(f"{otherwise}, after {PATIENCE} s.")
            time.sleep(0.1)

    def execute(self, node: Valkey, *command: object):
        with closing(redis.Redis(port=node.port, socket_timeout=2, protocol=2)) as client:
            return client.execute_command(*command)

    def is_replicated(self, node: Valkey, replicas: int) -> bool:
        return (
            len(self.execute(node, "INFO", "replication").get("slave0", "")) > 0
            and sum(
                self.execute(node, "INFO", "replication").get(f"slave{n}", {}).get("state")
                == "online"
                and int(self.execute(node, "INFO", "replication")[f"slave{n}"]["lag"]) <= 1
                for n in range(replicas)
            )
            == replicas
        )


class Watched(Servers):
    """A primary with two replicas and three Sentinels."""

    def begin(self) -> None:
        primary = self._stack.enter_context(self.add())
        port = self.tunnels[primary].port
        for _ in range(2):
            self._stack.enter_context(self.add("--replicaof", CLIENTS, str(port)))
        self.sentinels = [
            self._stack.enter_context(
                Sentinel(
                    port,
                    f"bind-source-addr 127.0.2.{n + 1}",
                    f"sentinel announce-ip {CLIENTS}",
                )
            )
            for n in range(3)
        ]

    def cache(self) -> dict[str, object]:
        return {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": "redis://sessions/0",
            "OPTIONS": {
                "CLIENT_CLASS": "django_redis.client.SentinelClient",
                "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
                "SENTINELS": [(CLIENTS, each.port) for each in self.sentinels],
            },
        }

    def primaries(self) -> list[Valkey]:
        ports = {self.state(each)["port"] for each in self.sentinels}
        return [self.at(port) for port in ports] if len(ports) == 1 else []

    def state(self, sentinel: Sentinel):
        return self.execute(sentinel, "SENTINEL MASTER", "sessions")

    def order(self, node: Valkey) -> None:
        sentinel = random.choice(self.sentinels)
        self.wait(
            lambda: self.execute(sentinel, "SENTINEL FAILOVER", "sessions"),
            "No Sentinel accepts the failover",
        )

    def settle(self) -> None:
        def settled():
            states = [self.state(each) for each in self.sentinels]
            good = [
                each["flags"] == "master"
                and each["num-other-sentinels"] == 2
                and each["num-slaves"] == 2
                for each in states
            ]
            primaries = self.primaries()
            return all(good) and primaries and self.is_replicated(primaries[0], 2)

        self.wait(settled, "The servers do not find together")


class Clustered(Servers):
    """Three primaries with a replica each."""

    def begin(self) -> None:
        for _ in range(6):
            self._stack.enter_context(
                self.add("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
            )
        thirds = ((0, 5460), (5461, 10922), (10923, 16383))
        first = self.nodes[0]
        for node in self.nodes[1:]:
            self.execute(
                first, "CLUSTER MEET", CLIENTS, self.tunnels[node].port, self.buses[node].port
            )
        for node, slots in zip(self.nodes, thirds, strict=False):
            self.execute(node, "CLUSTER ADDSLOTSRANGE", *slots)
        self.wait(
            lambda: all(
                self.execute(node, "CLUSTER INFO")["cluster_known_nodes"] == "6"
                for node in self.nodes
            ),
            "The nodes do not meet",
        )
        for node, primary in zip(self.nodes[3:], self.nodes, strict=False):
            name = self.execute(primary, "CLUSTER MYID").decode()
            self.wait(
                lambda node=node, name=name: self.execute(node, "CLUSTER REPLICATE", name),
                "A replica does not know its primary",
            )

    def announced(self, node: Valkey, port: str) -> tuple[str, ...]:
        bus = free_port()
        self.buses[node] = self._stack.enter_context(Tunnel(bus))
        announced = ("--cluster-announce-port", port, "--cluster-announce-ip", CLIENTS)
        return (
            *("--cluster-port", str(bus), *announced),
            *("--cluster-announce-bus-port", str(self.buses[node].port)),
        )

    def cache(self) -> dict[str, object]:
        factory = "django_strategy_sessions.strategies.redis.ClusterConnectionFactory"
        return {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{self.tunnels[self.nodes[0]].port}/0",
            "OPTIONS": {"CONNECTION_FACTORY": factory},
        }

    def ranges(self):
        """Those of slots, with their nodes, as most see them."""
        seen = Counter()
        for node in self.nodes:
            with suppress(redis.RedisError, OSError):
                seen[json.dumps(self.execute(node, "CLUSTER SLOTS"), default=bytes.decode)] += 1
        return json.loads(seen.most_common(1)[0][0]), max(seen.values())

    def primaries(self) -> list[Valkey]:
        ranges, agreeing = self.ranges()
        return [self.at(each[2][1]) for each in ranges] if agreeing > 3 else self.nodes

    def order(self, node: Valkey) -> None:
        ranges, _ = self.ranges()
        (replica,) = (self.at(each[3][1]) for each in ranges if self.at(each[2][1]) is node)
        self.execute(replica, "CLUSTER FAILOVER")

    def settle(self) -> None:
        def settled():
            ranges, agreeing = self.ranges()
            return (
                agreeing == len(self.nodes)
                and all(len(each) == 4 for each in ranges)
                and all(self.is_replicated(node, 1) for node in self.primaries())
                and all(
                    self.execute(node, "CLUSTER INFO")["cluster_state"] == "ok"
                    for node in self.nodes
                )
            )

        self.wait(settled, "The cluster does not find together")


# -- what workers do -------------------------------------------------------------------------------


class Worker:
    """Writes with some clients and looks with others, which are as another process' own."""

    def __init__(self, replicas: int) -> None:
        from django_strategy_sessions.strategies.redis_clients import RedisClients

        def clients():
            return RedisClients("sessions", timeout=TIMEOUT, replicas=replicas)

        self.writer = clients()
        self.readers = [clients(), clients()]  # one that is asked all the time, and one that rests
        self.rested = time.monotonic()
        self.ends = False
        self.kept: dict[str, float] = {}  # what is acknowledged as written, and when
        self.deleted: dict[str, float] = {}
        self.recent: deque[str] = deque(maxlen=100)
        self.stale: list[tuple[str, bool, float]] = []  # a key, whether it was missed, how long
        self.counts: Counter[str] = Counter()

    def visits(self):
        """What one task does until the end, as steps."""
        from django_strategy_sessions.strategies.base import StrategyUnavailable

        while not self.ends:
            try:
                yield from self.write_one()
                yield from self.look_at_one()
                if random.random() < 0.4:
                    yield from self.delete_one()
            except StrategyUnavailable:
                self.counts["refused"] += 1
            yield "pause", 0.01

    def write_one(self):
        key = f"session:{uuid4()}"
        if random.random() < 0.5:
            yield "write", "SET", key, "1", "NX"
        else:
            yield "script", "redis.call('SET', KEYS[1], ARGV[1]) return 1", [key], "1"
        self.counts["writes"] += 1
        self.kept[key] = time.monotonic()
        self.recent.append(key)

    def look_at_one(self):
        if not self.recent:
            return
        key = random.choice(self.recent)
        rests = time.monotonic() - self.rested > 1.5
        if rests:
            self.rested = time.monotonic()
        known, asked = (key in self.kept, key in self.deleted), time.monotonic()
        changed = self.deleted.get(key, self.kept.get(key))
        found = yield "look", self.readers[rests], key
        self.counts["loads"] += 1
        if (known == (True, False) and found is None and key in self.kept) or (
            known == (False, True) and found is not None
        ):
            self.stale.append((key, found is None, asked - changed))

    def delete_one(self):
        key = random.choice(self.recent)
        written = self.kept.pop(key, None)
        if written is None:
            return  # deleted, or its state is unknown
        yield "write", "DEL", key
        self.counts["deletions"] += 1
        self.deleted[key] = time.monotonic()

    # As `run` and `arun` call it.
    def write(self, *command):
        return self.writer.write(*command)

    def script(self, *given):
        return self.writer.script(*given)

    def look(self, reader, key):
        return reader.execute("GET", key)

    def pause(self, seconds):
        time.sleep(seconds)

    async def awrite(self, *command):
        return await self.writer.awrite(*command)

    async def ascript(self, *given):
        return await self.writer.ascript(*given)

    async def alook(self, reader, key):
        return await reader.aexecute("GET", key)

    async def apause(self, seconds):
        await asyncio.sleep(seconds)


def work() -> None:
    """The main function of a worker, which ends when it reads a line."""
    from django.conf import settings

    from django_strategy_sessions.steps import arun, run

    way, replicas, cache = json.loads(sys.argv[1])
    settings.configure(CACHES={"sessions": cache})
    worker = Worker(replicas)

    def wait_for_the_end():
        sys.stdin.readline()
        worker.ends = True

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    if way == "threads":
        threads = [
            threading.Thread(target=run, args=(worker, worker.visits())) for _ in range(TASKS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:

        async def main():
            await asyncio.gather(*(arun(worker, worker.visits()) for _ in range(TASKS)))

        asyncio.run(main())
    sys.stdout.write(
        json.dumps([list(worker.kept), list(worker.deleted), worker.stale, worker.counts])
    )


class Workers:
    """One of threads and one of tasks."""

    def __init__(self, servers: Servers, replicas: int) -> None:
        self.servers = servers
        code = "from tests.failovers import work; work()"
        self.children = [
            subprocess.Popen(
                [sys.executable, "-c", code, json.dumps([way, replicas, servers.cache()])],
                env=os.environ,
                cwd=Path(__file__).parent.parent,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for way in ("threads", "tasks")
        ]

    def end(self) -> Counter[str]:
        """What they were answered, and how much of it is not true."""
        total: Counter[str] = Counter()
        told = [json.loads(child.communicate("\n", timeout=60)[0]) for child in self.children]
        assert [child.returncode for child in self.children] == [0, 0]
        held = self.held()
        stalest = 0.0
        for kept, deleted, stale, counts in told:
            lost = {key for key in kept if key not in held}
            revived = {key for key in deleted if key in held}
            # A key that was missed and deleted later may have been lost.
            true = (set(kept) | set(deleted)) - lost - revived
            ages = [
                age for key, missed, age in stale if key in true and not (missed and key in deleted)
            ]
            stalest = max([stalest, *ages])
            total += Counter(counts)
            total += Counter(lost=len(lost), revived=len(revived), stale=len(ages))
        return total + Counter({"stalest, ms": round(stalest * 1000)})

    def held(self) -> set[str]:
        keys: set[str] = set()
        for node in self.servers.primaries():
            with closing(redis.Redis(port=node.port, socket_timeout=10)) as client:
                keys |= {key.decode() for key in client.scan_iter(count=1000)}
        return keys

    def kill(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()


def measure(servers_class: type[Servers], replicas: int, kinds) -> dict[str, Counter[str]]:
    """Let primaries fail in these ways, one after the other, under load; by the way."""
    results: dict[str, Counter[str]] = {}
    with servers_class() as servers:
        for kind in kinds:
            workers = Workers(servers, replicas)
            try:
                time.sleep(2)  # of load before
                servers.fail(kind)
                time.sleep(1)
                result = workers.end() + Counter(failovers=1)
            finally:
                workers.kill()
            if "stalest, ms" in results.get(kind, {}):
                most = max(result["stalest, ms"], results[kind]["stalest, ms"])
                result["stalest, ms"] = most - results[kind]["stalest, ms"]
            results[kind] = results.get(kind, Counter()) + result
            if __name__ == "__main__":
                print(kind, dict(result), flush=True)  # noqa: T201
    return results


if __name__ == "__main__":
    which, replicas, times, *kinds = sys.argv[1:]
    every = (kinds or Servers.KINDS) * int(times)
    found = measure({"sentinel": Watched, "cluster": Clustered}[which], int(replicas), every)
    for kind, counts in found.items():
        print(which, replicas, kind, dict(counts))  # noqa: T201
