"""The page on security: every test that it names exists, and no number in its scope is left out."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from unittest import TestCase

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "security.md").read_text()
SCOPE = {
    *("3.3.1", "3.3.2", "3.3.3", "3.3.4", "3.3.5"),
    *("7.2.1", "7.2.2", "7.2.3", "7.2.4", "7.3.1", "7.3.2"),
    *("7.4.1", "7.4.2", "7.4.3", "7.4.4", "7.4.5", "7.5.1", "7.5.2", "7.5.3"),
    *("9.1.1", "9.1.2", "9.1.3", "9.2.1", "9.2.2", "9.2.3", "9.2.4"),
    *("11.2.4", "11.5.1", "15.4.1", "15.4.2", "15.4.3", "15.4.4"),
    *("16.2.5", "16.5.1", "16.5.2", "16.5.3", "16.5.4"),
}


def rows(heading):
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def numbers(cells):
    return [number for cell in cells for number in re.findall(r"\d+\.\d+\.\d+", cell)]


PROMISES, PROJECTS = rows("What is promised"), rows("Your project's part")
NAMED = sorted(
    {name for row in PROMISES + PROJECTS for name in re.findall(r"`(\S+::\S+)`", row[2])}
)


def test_each_number_has_its_place():
    ours, theirs = numbers(row[1] for row in PROMISES), numbers(row[0] for row in PROJECTS)
    assert sorted(ours + theirs) == sorted(SCOPE)


def test_each_promise_has_a_test():
    assert [promise for promise, _numbers, held_by in PROMISES if "::" not in held_by] == []


@pytest.mark.parametrize("name", NAMED)
def test_each_test_exists_and_is_collected(name):
    file, *path = name.split("::")
    assert re.fullmatch(r"(\w+/)?test_\w+\.py", file)
    found = import_module(f"tests.{file.removesuffix('.py').replace('/', '.')}")
    for part in path:
        found = getattr(found, part)
        collected = isinstance(found, type) and issubclass(found, TestCase)
        assert collected or part.startswith("Test" if isinstance(found, type) else "test_")
    assert callable(found)
    assert path[-1].startswith("test_")
