"""``manage.py demomove``, which the page on moving names."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_a_site_moves_in_and_nobody_notices():
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "example_project.settings"}
    program = [sys.executable, "manage.py", "demomove", "--visitors=3", "--sleepers=5"]
    done = subprocess.run(
        program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Moved 5 sessions; 0 have expired, 0 are unreadable." in done.stdout
    assert re.search(r"Totals: \d+ requests, 0 logouts, 0 items lost\.$", done.stdout.strip())
