"""Tests about users pass with every kind of primary key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("key", ["uuid", "text"])
def test_users_may_have_any_primary_key(key):
    files = [TESTS / "test_admin_users.py", TESTS / "test_endsessions.py"]
    run = subprocess.run(
        [  # without migrations, because the model has none
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nomigrations"),
            *("--ds=tests.members.settings", "-k", "link or staff_end or signed_out"),
            *map(str, files),
        ],
        cwd=TESTS.parent,
        env={**os.environ, "TEST_MEMBERS": key},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout
