"""``python -m benchmarks.site.command NAME``: a command of Django's, at a word from outside."""

from __future__ import annotations

import sys

import django
from django.core.management import call_command


def main(name: str) -> None:
    django.setup()
    for line in sys.stdin:
        if line == "now\n":
            call_command(name, verbosity=0)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
