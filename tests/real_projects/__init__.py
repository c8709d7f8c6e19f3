"""Projects that others wrote, on our engine: ``tox -e projects`` installs them and runs these."""

import os

import pytest

SETTINGS = "tests.real_projects.settings"

if os.environ.get("DJANGO_SETTINGS_MODULE") != SETTINGS:
    pytest.skip(
        "These need other projects' packages: tox -e projects runs them.", allow_module_level=True
    )
