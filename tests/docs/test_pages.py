"""What the pages say is so: their code runs, their links lead somewhere, what they name is there.

A page's blocks of Python share one namespace, in order, and all of them are executed. Blocks that
begin with ``# settings.py`` are the settings of a project instead, and ``manage.py check`` has to
be content with them after each; it finds there the page's blocks that begin with another file's
name. Tests that a page shows are collected. Its functions are called in `test_examples`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest
from django.conf import global_settings
from django.core.management import get_commands, load_command_class

from .pages import (
    DOCS,
    INSTALL,
    LANGUAGES,
    PAGES,
    PROJECT,
    PROJECT_TABLE,
    PUBLIC,
    ROOT,
    SOURCE,
    TESTS,
    blocks,
    each_page,
    prose,
    python,
    resolve,
    run,
    spans,
)

# -- code ------------------------------------------------------------------------------------------


@each_page
def test_every_block_of_python_runs(page):
    run(page)


@each_page
def test_no_block_escapes_these_tests(page):
    fences = re.findall(r"^\s*(?:```|~~~).*", page.read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page)), "one is indented, or says more than its language"
    assert {block.language for block in blocks(page)} <= LANGUAGES


SETTINGS = [
    pytest.param(page, number, id=f"{page.relative_to(ROOT)}:{block.line}")
    for page in PAGES
    for number, block in enumerate(python(page))
    if block.file == "settings.py"
]


@pytest.mark.parametrize(("page", "number"), SETTINGS)
def test_settings_pass_djangos_check(tmp_path, page, number):
    (tmp_path / "urls.py").write_text("urlpatterns = []")
    shown = [block for block in python(page)[: number + 1] if block.file]
    installs = any("INSTALLED_APPS" in block.code for block in shown)
    (tmp_path / "settings.py").write_text(PROJECT if installs else PROJECT + INSTALL)
    for block in shown:
        with (tmp_path / block.file).open("a") as file:
            file.write(block.code)
    checked = subprocess.run(
        [*(sys.executable, "-W", "error", "-m", "django"), *("check", "--fail-level", "WARNING")],
        cwd=tmp_path,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "SESSION_SECRET": "s" * 32,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


# Tests that pages of docs/ show; the README's are run by test_readme.
for each in PAGES:
    if each.is_relative_to(DOCS):
        for name, value in run(each).items():
            if "Test" in name and getattr(value, "__module__", "") == f"docs.{each.stem}":
                assert name not in globals(), f"two tests are called {name}"
                globals()[name] = value


# -- links -----------------------------------------------------------------------------------------


def anchors(page):
    """GitHub's, and MyST's."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return [word.replace(" ", "-") for word in words]


@each_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if urlsplit(target).scheme:
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_can_be_reached_from_the_index():
    reached, index = {DOCS / "index.md"}, DOCS / "index.md"
    for block in blocks(index):
        if block.language == "{toctree}":
            entries = [line for line in block.code.splitlines() if line and line[0] != ":"]
            reached |= {DOCS / f"{entry}.md" for entry in entries}
    assert reached == {page for page in PAGES if page.is_relative_to(DOCS)}


# -- names -----------------------------------------------------------------------------------------


@each_page
def test_every_dotted_path_exists(page):
    paths = set(re.findall(r"\bdjango_strategy_sessions(?:\.\w+)+", page.read_text()))
    for span in spans(page):
        if short := re.match(rf"({PUBLIC})(\.(?!py$)[a-zA-Z]\w*)+(?=$|\()", span):
            paths.add(f"django_strategy_sessions.{short[0]}")
    for path in paths:
        resolve(path)


@each_page
def test_every_setting_exists(page):
    text = re.sub(r"environ\W+(get\W+)?\w+", "", page.read_text())  # an environment's are not ours
    for name in set(re.findall(r"\bSESSION_\w*[A-Z](?![\w*])", text)):
        assert hasattr(global_settings, name) or f'"{name}"' in SOURCE, name


@each_page
def test_every_file_and_every_test_that_is_named_exists(page):
    for span in spans(page):
        if "::" in span:  # a test: test_security_table looks for it
            continue
        if path := re.match(r"(?:tests|docs|django_strategy_sessions|benchmarks)/[\w./-]+", span):
            assert (ROOT / path[0]).exists(), span
        for name in re.findall(r"\btest_\w+\b(?!\.py)", span):
            stem = (ROOT / "tests" / f"{name}.py").exists()
            assert stem or re.search(rf"\bdef {name}\(", TESTS), span


COMMANDS = {**get_commands(), **dict.fromkeys(["demo", "demomove"], "example_project.shop")}


@each_page
def test_every_command_exists(page):
    for name in re.findall(r"manage\.py (\w+)", page.read_text()):
        assert name in COMMANDS, name
    for block in blocks(page):
        if block.language == "console":
            for line in re.findall(r"^\$ (.*)$", block.code, re.MULTILINE):
                check_command(shlex.split(line, comments=True))


def check_command(words):
    """Of programs that are not Python's nothing is known here."""
    words = words[words[0] in {"python", "python3"} :]
    if words[0] == "manage.py" and words[1] != "test":  # whose options are pytest's
        command = load_command_class(COMMANDS[words[1]], words[1])
        known = command.create_parser("manage.py", words[1])._option_string_actions
        for option in words[2:]:
            assert not option.startswith("-") or option.partition("=")[0] in known, option
    elif words[0] == "-m":
        assert find_spec(words[1]) or words[1] == "tox", words
    elif words[:2] == ["pip", "install"]:
        for name, extras in re.findall(r"\b(django-strategy[\w-]*)\[?([\w,]*)", " ".join(words)):
            assert name == PROJECT_TABLE["name"]
            assert {*filter(None, extras.split(","))} <= {*PROJECT_TABLE["optional-dependencies"]}
    elif words[0] == "tox" and "-e" in words:
        for name in words[words.index("-e") + 1].split(","):
            assert f"[testenv:{name}]" in (ROOT / "tox.ini").read_text(), name
