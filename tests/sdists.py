"""Folders of other projects' source distributions, which hold the tests that wheels leave out.

Nothing of them is kept here: they are fetched once from PyPI.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CACHE = Path(__file__).parent / ".sdists"


def fetched(project: str, version: str, *folders: str) -> Path:
    """A folder with these folders, which are named as in the source distribution."""
    source = CACHE / f"{project}-{version}"
    if not source.exists():
        _fetch(project, version, folders, source)
    return source


def _fetch(project: str, version: str, folders: tuple[str, ...], source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = ["download", "--quiet", "--no-deps", "--no-binary=:all:", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", *command, f"{project}=={version}"], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as unpacked, tarfile.open(archive) as tar:
            root = tar.getnames()[0].partition("/")[0]
            wanted = tuple(f"{root}/{name}/" for name in folders)
            members = [m for m in tar.getmembers() if m.name.startswith(wanted)]
            tar.extractall(unpacked, members, filter="data")
            try:
                (Path(unpacked) / root).rename(source)
            except OSError:  # another process was first
                if not source.exists():
                    raise
