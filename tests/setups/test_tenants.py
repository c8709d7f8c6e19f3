"""django-tenants: each tenant has a schema, which Django's connection points to by request."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("django_tenants")


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_sessions_are_in_the_schema_of_their_tenant(interface):
    command = [sys.executable, "-m", "tests.setups.tenants", interface]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
