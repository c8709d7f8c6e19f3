"""Which modules of the package import which."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.util import resolve_name
from pathlib import Path

import django_strategy_sessions

PACKAGE = "django_strategy_sessions"
FOLDER = Path(django_strategy_sessions.__file__).parent

BASE, SEALED = "strategies.base", "strategies.sealed"
# From the top to the bottom: a module imports only what stands below it.
IMPORTS = {
    # what the project sees: values, cookies, requests
    "apps": {"checks", "sign_ins", "strategies", "strategies.forks", "models"},
    "checks": {
        *("strategies.database_health", "strategies.health", "strategies"),
        *("cookies", "signing", "conf"),
    },
    "management": set(),
    "management.commands": set(),
    "management.commands.clearexpiredsessions": {"management.batches", "strategies", BASE},
    "management.commands.endsessions": {"management.batches", "users", BASE, "signals"},
    "management.commands.movesessions": {
        *("management.batches", "strategies.moving", "strategies.engines", "strategies", BASE),
    },
    "management.commands.sessionsdoctor": {"strategies.health", "strategies", "signing", "conf"},
    "management.batches": set(),
    "admin": {"users", "sign_ins", "strategies", "signals", "models", "records", "conf"},
    "urls": {"views"},
    "views": {"users"},
    "middleware": {"engine", BASE, "cookies", "unavailable", "steps", "conf"},
    "unavailable": set(),
    "engine": {
        *("state", "draft", "asking", "strategies", BASE),
        *("signing", "signals", "steps", "hidden"),
    },
    "": {"storage", "typed", "users", BASE},
    "storage": {
        *("state", "draft", "asking", "strategies", BASE),
        *("values", "cookies", "signing", "signals", "steps"),
    },
    "users": {"sign_ins", "asking", "strategies", BASE, "signals", "steps"},
    "sign_ins": {"values", "conf"},
    "messages": set(),
    "typed": set(),
    "testing": {"records", BASE, "values", "steps"},
    # the core that the faces share: texts
    "state": {"draft", "turns", BASE, "lines", "values", "signals", "steps", "conf"},
    "draft": {"values", "hidden"},
    "turns": set(),
    "asking": {BASE, "signals", "steps"},
    # the stores: rows, and the plumbing to each server
    "strategies.moving": {
        *("strategies.engines", "strategies.health", "strategies.transactions"),
        *(
            "strategies.loops",
            SEALED,
            "strategies",
            BASE,
            "records",
            "lines",
            "values",
            "steps",
            "hidden",
            "conf",
        ),
    },
    "strategies.cached": {
        *("strategies.copies", "strategies.breaker", "strategies.redis", "strategies.health"),
        *("strategies.transactions", SEALED, "strategies", BASE),
        *("records", "models", "signals", "steps"),
    },
    "strategies.copies": {SEALED, "records", "hidden"},
    "strategies.breaker": set(),
    "strategies.engines": {"strategies.transactions", BASE, "values", "signals"},
    "strategies.memory": {SEALED, "records"},
    "strategies.postgres": {
        *("strategies.database", "strategies.postgres_connections"),
        *(SEALED, BASE, "records", "models", "steps", "hidden"),
    },
    "strategies.postgres_connections": {
        *("strategies.postgres_pool", "strategies.postgres_timeouts"),
        *("strategies.database", "strategies.forks", "strategies.loops"),
    },
    "strategies.postgres_pool": {"strategies.postgres_timeouts"},
    "strategies.postgres_timeouts": {"strategies.database"},
    "strategies.database": {
        *("strategies.database_health", "strategies.transactions", "strategies.forks"),
        *(SEALED, BASE, "records", "models", "steps", "hidden"),
    },
    "strategies.database_health": {"strategies.postgres_health", "strategies.health", "models"},
    "strategies.postgres_health": {"strategies.health"},
    "strategies.redis": {
        *("strategies.redis_health", "strategies.redis_clients"),
        *(SEALED, BASE, "records", "steps"),
    },
    "strategies.redis_health": {"strategies.redis_clients", "strategies.health"},
    "strategies.redis_clients": {
        *("strategies.redis_connections", "strategies.redis_servers", "strategies.redis_exchange"),
        *("strategies.loops", BASE, "steps", "hidden"),
    },
    "strategies.redis_connections": {"strategies.redis_servers", "strategies.redis_exchange"},
    "strategies.redis_servers": {"strategies.redis_exchange"},
    "strategies.redis_exchange": {"hidden"},
    "strategies.health": {BASE},
    "strategies.transactions": set(),
    "strategies.forks": set(),
    # every rule about a session at rest, and the contract
    SEALED: {"strategies.loops", BASE, "records", "lines", "signals", "steps", "hidden"},
    "strategies.loops": set(),
    "strategies": {BASE, "conf"},  # and by its dotted path the strategy of the project
    BASE: {"lines", "values", "steps", "hidden"},
    "models": set(),
    # what all of them stand on
    "records": {"lines", "values", "signing", "conf", "hidden"},
    "lines": {"values"},
    "values": {"hidden"},
    "cookies": set(),
    "signing": {"conf", "hidden"},
    "conf": set(),
    "hidden": set(),
    "signals": set(),
    "steps": set(),
}
OUTSIDE = {
    "asgiref": {
        *("middleware", "storage", "testing", "signals"),
        *(BASE, SEALED, "strategies.moving", "strategies.loops"),
    },
    "django_redis": {"strategies.redis_clients"},
    "psycopg": {
        *("strategies.postgres_connections", "strategies.postgres_pool"),
        "strategies.postgres_timeouts",
    },
    "redis": {
        "strategies.cached",
        *("strategies.redis", "strategies.redis_health", "strategies.redis_clients"),
        *("strategies.redis_connections", "strategies.redis_servers", "strategies.redis_exchange"),
    },
    "tqdm": {"management.batches"},
    "ua_parser": {"sign_ins"},
    "typing_extensions": {"storage"},
}


def _name(path: Path) -> str:
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imported(path: Path) -> set[str]:
    """Absolute names of modules, also of those that are imported within functions."""
    inside = ".".join([PACKAGE, *path.relative_to(FOLDER).parent.parts])
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), inside)
            modules = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
            names |= modules or {source}
    return names


MODULES = {
    f"{PACKAGE}.{_name(path)}".rstrip("."): path
    for path in FOLDER.rglob("*.py")
    if "migrations" not in path.parts
}
FOUND = {_name(path): _imported(path) for path in MODULES.values()}


def _own(names: set[str]) -> set[str]:
    return {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(PACKAGE)}


def test_modules_import_what_the_table_says_and_nothing_else():
    assert {module: _own(names) for module, names in FOUND.items()} == IMPORTS


def test_there_are_no_cycles_and_no_module_imports_what_stands_above_it():
    below = set(IMPORTS)
    for module, known in IMPORTS.items():
        below.remove(module)
        assert known <= below, module


def test_only_the_middleware_imports_the_engine():
    # It takes its settings when it is imported, and names an app that has to be installed.
    assert [name for name, known in IMPORTS.items() if "engine" in known] == ["middleware"]


def test_a_strategy_is_imported_only_by_one_that_is_built_on_it():
    concrete = {f"strategies.{name}" for name in ("memory", "database", "postgres", "redis")}
    users = {name: known & concrete for name, known in IMPORTS.items() if known & concrete}
    of_postgres = ("postgres", "postgres_connections", "postgres_timeouts")
    built = {f"strategies.{name}": {"strategies.database"} for name in of_postgres}
    assert users == {**built, "strategies.cached": {"strategies.redis"}}


def test_each_driver_is_imported_by_one_store_only():
    used: dict[str, set[str]] = {}
    for module, names in FOUND.items():
        for root in {name.partition(".")[0] for name in names}:
            if root not in {*sys.stdlib_module_names, PACKAGE, "django"}:
                used.setdefault(root, set()).add(module)
    assert used == OUTSIDE


def test_a_project_has_to_install_nothing_but_django():
    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", given)[0] for given in table["dependencies"]}
    assert names == {"django", "typing-extensions"}  # the second below Python 3.13 only


def test_no_module_is_named_utils():
    words = {word for module in FOUND for word in module.split(".")}
    assert not words & {"common", "core", "exceptions", "helpers", "misc", "utils"}
