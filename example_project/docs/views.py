"""The documentation and the source, as they are in this checkout: plain text, no network needed."""

from django.conf import settings
from django.http import FileResponse, Http404
from django.shortcuts import render

ROOT = settings.BASE_DIR.parent
GUIDES = ("README.md", "docs/*.md", "CHANGELOG.md")
BUILT = ("docs/index.md", "docs/changelog.md", "docs/reference.md")  # directives for Sphinx
SITE = ("example_project/settings.py", "example_project/*/*.py")
PACKAGE = ("django_strategy_sessions/*.py", "django_strategy_sessions/strategies/*.py")


def page(request):
    guides = [path for path in _files(GUIDES) if path not in BUILT]
    context = {
        "guides": [(path, _title(path)) for path in guides],
        "site": [(path, path.partition("/")[2]) for path in _files(SITE)],
        "package": [(path, path.partition("/")[2]) for path in _files(PACKAGE)],
    }
    return render(request, "docs/docs.html", context)


def file(request, path):
    if path not in _files(GUIDES + SITE + PACKAGE):
        raise Http404
    return FileResponse((ROOT / path).open("rb"), content_type="text/plain; charset=utf-8")


def _files(patterns):
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path.relative_to(ROOT).as_posix() for path in found if path.stat().st_size]


def _title(path):
    return (ROOT / path).read_text(encoding="utf-8").partition("\n")[0].strip("# ")
