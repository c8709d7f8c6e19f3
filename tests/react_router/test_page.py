"""The page on React Router: its numbers are those in the names of the tests beside this one."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "react-router.md").read_text()
TESTS = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
OF_TYPES = 35  # held by tests/types


def cited():
    """The numbers in the names of tests: ``1_``, ``18_19_`` or ``70_to_81_``."""
    for name in re.findall(r"^def test_((?:\d+_|to_)+)", TESTS, re.MULTILINE):
        first, to, last = name.rstrip("_").partition("_to_")
        if to:
            yield from range(int(first), int(last) + 1)
        else:
            yield from map(int, first.split("_"))


def test_the_page_has_each_number_once_and_each_has_a_test():
    cells = re.findall(r"^\| (\d+(?:, \d+)*) \|", PAGE, re.MULTILINE)
    told = [int(number) for cell in cells for number in cell.split(", ")]
    assert told == sorted({*cited(), OF_TYPES})
