"""``tox -e docs``: the pages of this folder as HTML."""

project = "django-strategy-sessions"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # as on GitHub
html_theme = "furo"
html_title = project
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
