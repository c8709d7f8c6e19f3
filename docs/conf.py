"""``tox -e docs``: the pages of this folder as HTML."""

import sys
from pathlib import Path

import django
from django.conf import settings

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# The reference imports modules that ask for a project.
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django_strategy_sessions",
    ],
    SECRET_KEY="of the docs, where nothing is signed",  # noqa: S106
)
django.setup()

project = "django-strategy-sessions"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # as on GitHub
default_role = "code"  # what docstrings put in single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
html_theme = "furo"
html_title = project
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
