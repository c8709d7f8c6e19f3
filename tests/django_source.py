"""Django's own session tests, from the source distribution of the Django that is installed.

They are not in its wheel and nothing of them is kept here: they are fetched once from PyPI.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

CACHE = Path(__file__).parent / ".django"


def fetched() -> Path:
    """The folder that holds the package ``sessions_tests``, to go on ``sys.path``."""
    source = CACHE / django.__version__
    if not source.exists():
        _fetch(source)
    return source


def _fetch(source: Path) -> None:
    tests = f"django-{django.__version__}/tests"
    wanted = tuple(f"{tests}/{name}/" for name in ("sessions_tests", "messages_tests"))
    with tempfile.TemporaryDirectory() as folder:
        command = ["download", "--quiet", "--no-deps", "--no-binary=:all:", "--dest", folder]
        subprocess.run(
            [sys.executable, "-m", "pip", *command, f"django=={django.__version__}"], check=True
        )
        (archive,) = Path(folder).glob("*.tar.gz")
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as unpacked, tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if m.name.startswith(wanted)]
            tar.extractall(unpacked, members, filter="data")
            try:
                (Path(unpacked) / tests).rename(source)
            except OSError:  # another process was first
                if not source.exists():
                    raise
