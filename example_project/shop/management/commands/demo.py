"""``manage.py demo``: the example site, ready to use."""

import socket

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand

NAME = PASSWORD = "demo"  # noqa: S105  (shown on the sign-in page)


class Command(BaseCommand):
    help = "Prepares the example site's database and demo user, and starts it."
    requires_system_checks = ()  # runserver makes them

    def add_arguments(self, parser):
        parser.add_argument("--port", type=int, default=8000)

    def handle(self, *args, port, **options):
        call_command("migrate", verbosity=0)
        users = get_user_model().objects
        if not users.filter(username=NAME).exists():
            users.create_superuser(NAME, password=PASSWORD)
        port = free_port(port)
        self.stdout.write(f"Sessions are kept in {settings.STORE}.")
        self.stdout.write(
            f"Example site: http://127.0.0.1:{port}/  (sign in as {NAME} / {PASSWORD})"
        )
        self.stdout.flush()
        # Insecure: static files although DEBUG is off.
        call_command("runserver", f"127.0.0.1:{port}", use_reloader=False, insecure_serving=True)


def free_port(first):
    """Return the first free port, starting at `first`."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise SystemExit(f"Ports {first} to {first + 99} are all taken; choose another with --port.")
