"""``python -m benchmarks``: that it measures everything it says; not what comes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from .servers import Valkey, postgres_url

ROOT = Path(__file__).parent.parent
PLOTS = {
    "Operations": "operations",
    "Rotation": None,
    "Replicas": None,
    "In an event loop": None,
    "Requests a second": "requests",
    "Growth with the table": "table",
    "Growth with the session": "size",
    "Writers of one session": "writers",
    "Cleanup": "cleanup",
    "Move": None,
    "Metrics": None,
    "Bytes": "bytes",
    "HOT updates": None,
}


def test_one_command_measures_every_part_and_writes_a_page_with_every_table_and_plot(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--pinning", "none"]
    with Valkey() as empty:  # the command takes three databases by their numbers
        servers = {"TEST_POSTGRES_URL": postgres_url(), "TEST_REDIS_URL": empty.url}
        subprocess.run(
            [*command, "--output", tmp_path],
            cwd=ROOT,
            env={**os.environ, **servers},
            check=True,
            timeout=300,
        )
    page = (tmp_path / "index.md").read_text()
    setup, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    for software in ("PostgreSQL", "Redis|Valkey", "Python", "Django", "psycopg", "gunicorn"):
        assert re.search(rf"\b({software}) \d", setup), software
    assert {section.partition("\n")[0] for section in sections} == set(PLOTS)
    for section in sections:
        title = section.partition("\n")[0]
        rows = re.findall(r"^\| (?!---)(.*) \|$", section, flags=re.MULTILINE)
        assert len(rows) >= 3, title
        shown = re.findall(r"^!\[.+\]\((\w+)\.svg\)$", section, flags=re.MULTILINE)
        assert shown == [name for name in [PLOTS[title]] if name], title
        for name in shown:
            root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
            assert root.tag.endswith("svg"), name
    writers = next(section for section in sections if section.startswith("Writers"))
    lost = re.findall(r"\((\d+)%\)", writers)
    assert lost[0] == lost[5] == "0", "of our writes in PostgreSQL some are lost"
    assert lost[3] == lost[8] == "0", "of our writes in Redis some are lost"
