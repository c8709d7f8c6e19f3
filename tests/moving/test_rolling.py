"""Two deployments, each rolling, under load: processes of two releases behind one balancer.

``TEST_RACES=full`` sends 200 visitors from every source to every target, and by default a few from
some. What was counted is logged: ``--log-file=figures.txt --log-file-level=INFO``.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.cookies import SimpleCookie
from itertools import cycle
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.db import connections

from ..conftest import DJANGOS, OURS, POSTGRES, REDIS
from ..servers import STARTED_WITHIN, database, free_port, postgres_url
from .conftest import BACKENDS, ENGINE, MIDDLEWARE, MOVING
from .urls import AGES

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

FULL = os.environ.get("TEST_RACES") == "full"
VISITORS = 200 if FULL else 12
OLD_KEY, OUR_KEY = 32, 40  # characters
PROCESSES = 4  # behind the balancer, two of each release
READERS = 2  # of each visitor, besides the one that writes
IN_FLIGHT = 36  # at most; Django's server refuses connections when ten wait for each process
WRITES = 6 if FULL else 5  # of each visitor in each phase
WAYS = {
    "db to postgres": ("db", POSTGRES),
    "cached_db to redis": ("cached_db", REDIS),
    "cache to redis": ("cache", REDIS),
}
MORE_WAYS = {
    "db to redis": ("db", REDIS),
    "cached_db to postgres": ("cached_db", POSTGRES),
    "cache to postgres": ("cache", POSTGRES),
}
ALL_WAYS = WAYS | MORE_WAYS if FULL else WAYS

log = logging.getLogger(__name__)


@contextmanager
def processes(**sites):
    """Ports by the names of releases: two processes of each."""
    name = connections["postgres"].settings_dict["NAME"]
    tables = database(urlsplit(postgres_url())._replace(path=f"/{name}").geturl())
    common = {
        "ROOT_URLCONF": "tests.moving.urls",
        "DATABASES": {"default": tables, "postgres": tables},
        "SESSION_CACHE_ALIAS": "sessions",
        "CSRF_USE_SESSIONS": True,
        "MESSAGE_STORAGE": "django.contrib.messages.storage.session.SessionStorage",
    }
    ports, started = {}, []
    with ExitStack() as stack:
        for release, site in sites.items():
            ports[release] = [free_port(), free_port()]
            for port in ports[release]:
                server = subprocess.Popen(
                    [sys.executable, "-m", "tests.serve", "wsgi", str(port)],
                    env={**os.environ, "TEST_SITE": json.dumps({**common, **site})},
                    stderr=subprocess.DEVNULL,
                )
                stack.callback(server.wait)
                stack.callback(server.kill)
                started.append((server, port))
        ends = time.monotonic() + STARTED_WITHIN
        for server, port in started:
            while True:
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                assert server.poll() is None
                assert time.monotonic() < ends
                time.sleep(0.05)
        yield ports


class Browser:
    """The cookies of one visitor, whose requests run side by side."""

    def __init__(self, balancer):
        self.balancer, self.cookies, self.lock = balancer, {}, threading.Lock()

    @property
    def key(self):
        return self.cookies["sessionid"]

    def request(self, path, token=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.balancer.next(), timeout=60)
        with self.lock:
            sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"Cookie": sent} if sent else {}
        if token:
            headers["X-CSRFToken"] = token
        connection.request("POST" if token else "GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        with self.lock:
            for header in response.msg.get_all("Set-Cookie", []):
                for name, morsel in SimpleCookie(header).items():
                    self.cookies[name] = morsel.value
                    self.last = morsel
        connection.close()
        assert response.status == 200, (path, response.status)
        return json.loads(body)


class Balancer:
    """Sends each request to the next process."""

    def __init__(self):
        self.lock = threading.Lock()

    def lead_to(self, *ports):
        with self.lock:
            self.ports = cycle(ports)

    def next(self):
        with self.lock:
            return next(self.ports)


class Visitor:
    def __init__(self, number, balancer):
        self.number, self.browser, self.cart = number, Browser(balancer), []
        self.problems, self.counts = [], Counter()

    def enter(self):
        self.token = self.browser.request(f"/enter/{self.number}/")["token"]
        self.cart = []
        self.counts["logins"] += 1

    def write(self, phase):
        for _ in range(WRITES):
            item = len(self.cart)
            told = self.browser.request(f"/add/{item}/", self.token)
            self.cart.append(item)
            wanted = [f"added {item - 1}"] if item else []
            if told["seen"] != wanted or told["cart"] != self.cart:
                self.problems.append((phase, self.number, item, told))
            self.check(phase, told)
            self.counts["writes"] += 1

    def read(self, phase):
        for _ in range(WRITES):
            known = len(self.cart)
            told = self.browser.request("/look/")
            self.check(phase, told)
            if len(told["cart"] or []) < known:
                self.problems.append((phase, self.number, "read", known, told))
            self.counts["reads"] += 1

    def leave_and_enter(self, phase):
        """Log out, look whether the old cookie is dead on every process, and log in again."""
        known = Browser(self.browser.balancer)
        known.cookies = {**self.browser.cookies}
        self.browser.request("/leave/")
        for _ in range(PROCESSES):
            told = known.request("/look/")
            if told["user"] or told["owner"] is not None or told["cart"] is not None:
                self.problems.append((phase, self.number, "logged out", told))
            self.counts["looks after a logout"] += 1
        self.enter()

    def check(self, phase, told):
        if (told["user"], told["owner"]) != (f"visitor {self.number}", self.number):
            self.problems.append((phase, self.number, told))


def releases(source, target):
    def moving(step):
        options = {"source": f"{BACKENDS}.{source}", "target": target, "step": step}
        return {"BACKEND": MOVING, "OPTIONS": options}

    ours = {"SESSION_ENGINE": ENGINE, "MIDDLEWARE": [OURS, *MIDDLEWARE]}
    return {
        "old": {
            "SESSION_ENGINE": f"{BACKENDS}.{source}",
            "MIDDLEWARE": [DJANGOS, *MIDDLEWARE],
        },
        "accept": {**ours, "SESSION_STRATEGY": moving("accept")},
        "move": {**ours, "SESSION_STRATEGY": moving("move")},
        "done": {**ours, "SESSION_STRATEGY": target},
    }


@pytest.mark.parametrize(("source", "target"), ALL_WAYS.values(), ids=ALL_WAYS)
def test_a_rolling_deployment_logs_nobody_out_and_loses_nothing(source, target, request):
    caches["sessions"].clear()
    names = [User(username=f"visitor {number}", password="!") for number in range(VISITORS)]
    User.objects.using("postgres").bulk_create(names)
    balancer = Balancer()
    visitors = [Visitor(number, balancer) for number in range(VISITORS)]
    begun = time.monotonic()
    with (
        processes(**releases(source, target)) as ports,
        ThreadPoolExecutor(IN_FLIGHT) as pool,
    ):

        def everybody(phase, *running):
            balancer.lead_to(*(port for pair in zip(*running, strict=True) for port in pair))
            acts = [
                pool.submit(act, phase)
                for visitor in visitors
                for act in (visitor.write, *[visitor.read] * READERS)
            ]
            for each in acts:
                each.result()
            some = visitors[::3]
            list(pool.map(Visitor.leave_and_enter, some, [phase] * len(some)))
            return {len(visitor.browser.key) for visitor in visitors}

        balancer.lead_to(*ports["old"])
        list(pool.map(Visitor.enter, visitors))
        everybody("before", ports["old"])
        # Nobody is given a key that the release before would not understand.
        assert everybody("first deployment", ports["old"], ports["accept"]) == {OLD_KEY}
        everybody("second deployment", ports["accept"], ports["move"])
        assert everybody("afterwards", ports["move"]) == {OUR_KEY}
        everybody("without the setting", ports["done"])
    problems = [problem for visitor in visitors for problem in visitor.problems]
    counts = {**sum((visitor.counts for visitor in visitors), Counter()), "problems": len(problems)}
    log.info("%s: %s, %.0f s", request.node.name, counts, time.monotonic() - begun)
    assert not problems, (len(problems), problems[:3])
    for visitor in visitors:
        lasts = bool(visitor.browser.last["max-age"])
        assert lasts == (AGES[visitor.number % len(AGES)] != 0)
