"""``manage.py demomove``: a site moves in, in about a minute, and logs nobody out."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path

from django.core.management.base import BaseCommand

from .demo import free_port

ITEMS = 5  # that each visitor puts into the cart in each phase
PHASES = [
    ("The old release: Django's `db` engine.", ["old", "old"]),
    ("First deployment, rolling: every second process accepts both keys.", ["old", "accept"]),
    ("Second deployment, rolling: every second process moves sessions.", ["accept", "move"]),
    ("Every process moves sessions.", ["move", "move"]),
]


class Visitor:
    def __init__(self, name):
        self.name, self.cookies, self.cart = name, {}, []
        self.requests = self.logged_out = self.lost = 0

    def ask(self, port, path):
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request("GET", path, headers={"Cookie": sent} if sent else {})
        response = connection.getresponse()
        for header in response.msg.get_all("Set-Cookie", []):
            name, value = re.match(r"([^=]+)=([^;]*)", header).groups()
            self.cookies[name] = value
        page = json.loads(response.read())
        connection.close()
        self.requests += 1
        self.logged_out += page["name"] != self.name
        self.lost += len({*self.cart} - {*(page["cart"] or [])})

    def shop(self, ports):
        for _ in range(ITEMS):
            self.ask(next(ports), f"/add/{len(self.cart)}/")
            self.cart.append(len(self.cart))
            self.ask(next(ports), "/")


class Command(BaseCommand):
    help = "Moves a small site from Django's engine to ours beside its visitors, and counts."
    requires_system_checks = ()  # the processes that it starts make them

    def add_arguments(self, parser):
        parser.add_argument("--visitors", type=int, default=20)
        parser.add_argument(
            "--sleepers", type=int, default=200, help="Visitors who come back at the end only."
        )

    def handle(self, *args, **options):
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(20) as pool:
            self.database = str(Path(folder) / "db.sqlite3")
            self.run("old", "migrate", "--verbosity=0")
            visitors = [Visitor(f"visitor-{number}") for number in range(options["visitors"])]
            sleepers = [Visitor(f"sleeper-{number}") for number in range(options["sleepers"])]
            with self.processes(["old"]) as ports:
                for visitor in [*visitors, *sleepers]:
                    visitor.ask(ports[0], f"/enter/{visitor.name}/")
            self.say(
                f"{len(visitors)} visitors have signed in, and {len(sleepers)} who will come later."
            )
            for title, releases in PHASES:
                with self.processes(releases) as ports:
                    self.shop(pool, visitors, title, ports)
            with self.processes(["move", "move"]) as ports:
                command = pool.submit(self.run, "move", "movesessions")
                self.shop(pool, visitors, "The rest: movesessions runs meanwhile.", ports)
                self.say(f"  {command.result()}")
            with self.processes(["done", "done"]) as ports:
                self.shop(pool, visitors, "The setting is removed.", ports)
            with self.processes(["move"]) as ports:
                for sleeper in sleepers:  # who still have the old cookie
                    sleeper.ask(ports[0], "/")
            everybody = [*visitors, *sleepers]
            logged_out = sum(visitor.logged_out for visitor in everybody)
            lost = sum(visitor.lost for visitor in everybody)
            requests = sum(visitor.requests for visitor in everybody)
            self.say(f"Totals: {requests:,} requests, {logged_out} logouts, {lost} items lost.")
            if logged_out or lost:
                sys.exit(1)

    def shop(self, pool, visitors, title, ports):
        before = {visitor.name: visitor.cookies["sessionid"] for visitor in visitors}
        list(pool.map(Visitor.shop, visitors, [cycle(ports) for _ in visitors]))
        new = sum(visitor.cookies["sessionid"] != before[visitor.name] for visitor in visitors)
        items = sum(len(visitor.cart) for visitor in visitors)
        self.say(f"{title}\n  {items} items are in the carts; {new} visitors have a new cookie.")

    def run(self, release, *command):
        program = [sys.executable, "-m", "django", *command]
        done = subprocess.run(
            program, env=self.environment(release), capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    @contextmanager
    def processes(self, releases):
        """Yield the ports of one process for each release."""
        with ExitStack() as stack:
            ports = []
            for release in releases:
                ports.append(free_port(ports[-1] + 1 if ports else 8100))
                program = [sys.executable, "-m", "django", "runserver", f"127.0.0.1:{ports[-1]}"]
                process = subprocess.Popen(
                    [*program, "--noreload"],
                    env=self.environment(release),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                stack.callback(process.wait)
                stack.callback(process.terminate)
                wait_for(process, ports[-1])
            yield ports

    def environment(self, release):
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "example_project.move.settings",
            "EXAMPLE_DATABASE": self.database,
            "EXAMPLE_RELEASE": release,
            "EXAMPLE_STORE": "",
        }

    def say(self, line):
        self.stdout.write(line)
        self.stdout.flush()


def wait_for(process, port):
    while process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit("A process of the site did not start.")
