"""What the pages say is so: their code runs, their links lead somewhere, what they name is there.

A page's blocks of Python share one namespace, in order, and all of them are executed. Blocks that
begin with ``# settings.py`` are the settings of a project instead, and ``manage.py check`` has to
be content with them after each; it finds there the page's blocks that begin with another file's
name. Tests that a page shows are collected. Its functions are called by the tests below.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from asgiref.sync import async_to_sync
from django.conf import global_settings
from django.contrib.auth.models import User
from django.core.management import get_commands, load_command_class
from django.test import RequestFactory, override_settings

import django_strategy_sessions
from django_strategy_sessions import Cookie, Session, conf, records
from django_strategy_sessions.checks import check_sessions
from django_strategy_sessions.engine import SessionStore
from django_strategy_sessions.messages import FlashStorage
from django_strategy_sessions.testing import StrategyContract

from . import servers
from .conftest import MEMORY, run_in_loop
from .test_checks import WRONG

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(django_strategy_sessions.__file__).parent
SOURCE = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
PUBLIC = "engine|middleware|records|signing|strategies|testing"  # modules, by their short names
PROJECT_TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))) + SOURCE

PAGES = sorted(
    [path for path in DOCS.rglob("*.md") if "_build" not in path.parts] + [*ROOT.glob("*.md")]
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))

LANGUAGES = {"python", "console", "sql", "text", "html", "{toctree}"}
# Settings that blocks add to.
PROJECT = """
from pathlib import Path
BASE_DIR = Path(__file__).parent
SECRET_KEY = "of a project that only its check ever sees: 0123456789abcdef"
ROOT_URLCONF = "urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django_strategy_sessions",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
SESSION_ENGINE = "django_strategy_sessions.engine"
"""
# What the README's blocks leave out, for its reader to fill in.
README_IMPORTS = """
import json, secrets
from datetime import UTC, datetime
from django.http import HttpResponse
from django_strategy_sessions import SessionStrategy
from django_strategy_sessions.testing import StrategyContract
"""


class Block(NamedTuple):
    language: str
    line: int
    code: str

    @property
    def file(self):
        """The name of the file that it is said to be in."""
        named = re.match(r"# (\w+\.py)\n", self.code)
        return named and named[1]


@cache
def blocks(page):
    found = re.finditer(r"^```(\S*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(m[1], m.string.count("\n", 0, m.start(2)), m[2]) for m in found]


def python(page):
    return [block for block in blocks(page) if block.language == "python"]


@cache
def run(page):
    """The namespace of a page whose blocks were executed."""
    names = {"__name__": f"docs.{page.stem}"}
    if page.name == "README.md":
        exec(README_IMPORTS, names)
    for block in python(page):
        if block.file != "settings.py":
            # A traceback shows the line of the page.
            exec(compile("\n" * block.line + block.code, page, "exec"), names)
    return names


def names_of(page):
    return run(DOCS / page)


def prose(page):
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def spans(page):
    """What is in backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def rows(page, heading):
    """The cells of the first table under a heading, without backticks."""
    section = page.read_text().partition(f"# {heading}\n")[2].partition("\n## ")[0]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    lines = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return [[cell.strip().replace("`", "") for cell in line] for line in lines]


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
    (tmp_path / "settings.py").write_text(PROJECT)
    for block in python(page)[: number + 1]:
        if block.file:
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


def resolve(path):
    """What a dotted path names: a module, or something in one. Raises if it names nothing."""
    module, _, rest = path.partition(".")
    found = import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        found = getattr(found, part, None) or import_module(module)
    return found


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
        if path := re.match(r"(?:tests|docs|django_strategy_sessions|benchmarks)/[\w./-]+", span):
            assert (ROOT / path[0]).exists(), span
        for name in re.findall(r"\btest_\w+\b(?!\.py)", span):
            stem = (ROOT / "tests" / f"{name}.py").exists()
            assert stem or re.search(rf"\bdef {name}\(", TESTS), span


COMMANDS = {**get_commands(), "demo": "example_project.shop"}


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


# -- the functions of the pages --------------------------------------------------------------------


@pytest.fixture
def post():
    """A request to a page's view, with the session of `key`."""

    def make(key=None, cookies="", **data):
        request = RequestFactory().post("/", data, headers={"Cookie": cookies})
        request.session = SessionStore(key)
        return request

    return make


def sent_back(response):
    """The cookies of a response, as a browser returns them."""
    return "; ".join(f"{name}={morsel.value}" for name, morsel in response.cookies.items())


@pytest.mark.django_db
def test_getting_started_what_its_views_change_is_kept_and_the_notice_shown_once(post):
    views = names_of("getting-started.md")
    key = None
    for tea in ("Assam", "Sencha"):
        request = post(key)
        views["add"](request, tea)
        request.session.save()
        key = request.session.session_key
    assert SessionStore(key)["clicks"] == 2
    for shown in (b"Sencha is in your cart.", b""):
        request = post(key)
        assert views["cart"](request).content == shown + b"\nAssam\nSencha"
        request.session.save()


@pytest.mark.django_db
def test_flash_a_notice_waits_for_the_request_that_reads_it_and_is_gone_with_its_save(post):
    views = names_of("flash-and-messages.md")
    request = post()
    views["save"](request)
    request.session.save()
    key = request.session.session_key
    assert views["home"](post(key)).content == b"Saved."  # not saved: a response that failed
    request = post(key)
    assert [views["home"](request).content for _ in range(2)] == [b"Saved."] * 2
    request.session.save()
    assert views["home"](post(key)).content == b""


@pytest.mark.django_db
def test_flash_the_table_of_what_does_what(post):
    session = post().session
    for name in ("get", "in", "pop", "del"):
        session.flash(name, 1)
    assert session.get("get") == session["get"] == 1
    assert "in" in session
    assert {*session.keys()} == {"__flash_in__", "__flash_pop__", "__flash_del__"}
    assert (session.pop("pop"), session.get("pop")) == (1, None)
    with pytest.raises(KeyError):
        del session["del"]
    assert session.get("del") == 1


@pytest.mark.django_db
def test_flash_one_that_is_named_like_a_level_is_a_message(post):
    request = post()
    names_of("flash-and-messages.md")["delete"](request)
    (message,) = FlashStorage(request)
    assert (message.level_tag, message.message) == ("error", "That did not work.")


@pytest.mark.django_db
def test_typed_data_the_typed_session_is_the_requests_own(post):
    page = names_of("typed-data.md")
    request = post()
    assert page["add"](request).content == b"tea"
    assert (request.session["cart"], request.session["role"]) == (["tea"], "guest")
    response = page["sign_in"](post())
    greeted = page["greet"](post(cookies=sent_back(response)))
    assert greeted.content == b"Welcome."
    assert page["greet"](post(cookies=sent_back(response))).content == b""


@pytest.mark.django_db
def test_storages_a_cart_lives_until_it_is_emptied_and_beside_the_requests_session(post):
    page = names_of("storages.md")
    cookies = sent_back(page["add"](post(item="tea")))
    response = page["add"](post(cookies=cookies, item="cup"))
    assert response.headers["Vary"] == "Cookie"
    assert page["carts"].get_session(cookies).get("items") == ["tea", "cup"]
    request = post(cookies=cookies)
    assert request.session.get("items") is None
    page["empty"](request)
    assert page["carts"].get_session(cookies).id == ""


@pytest.mark.django_db
def test_storages_headers_are_enough():
    visit = names_of("storages.md")["visit"]
    visits, set_cookie = visit(None)
    assert visits == 1
    assert visit(set_cookie.partition(";")[0])[0] == 2


@pytest.mark.django_db
def test_storages_a_sign_in_ends_the_id_that_was_there_before(post):
    page = names_of("storages.md")
    planted = sent_back(page["add"](post(item="tea")))
    cookies = sent_back(page["sign_in"](post(cookies=planted, customer="ada")))
    assert page["carts"].get_session(planted).id == ""
    session = page["carts"].get_session(cookies)
    assert session.data == {"items": ["tea"], "customer": "ada"}


def test_storages_four_functions_serve_sync_and_async_callers():
    notes = names_of("storages.md")["notes"]
    session = Session({"a": 1})
    cookie = notes.commit_session(session)
    assert "Path=/notes/" in cookie
    again = async_to_sync(notes.aget_session)(cookie.partition(";")[0])
    assert again.data == {"a": 1}
    notes.destroy_session(again)
    assert notes.get_session(cookie.partition(";")[0]).id == ""


@pytest.mark.django_db
def test_storages_one_of_another_store_is_cleared_by_its_own_strategy():
    page = names_of("storages.md")
    session = Session({"a": 1})
    page["carts"].commit_session(session, max_age=-1)
    assert page["clear"]() == 1


COUNT = """
import sys
from django.conf import settings
settings.configure(SECRET_KEY="k" * 32)
from datetime import UTC, datetime, timedelta
from django_strategy_sessions.strategies.base import Apply
from sessions import FolderStrategy

strategy, session_id = FolderStrategy("folder"), sys.argv[1]
for _ in range(50):
    held = strategy.load(session_id)
    data = {**held.data, "count": Apply(lambda count: count + 1)}
    strategy.merge(held, data, datetime.now(UTC) + timedelta(hours=1))
"""


def test_strategies_processes_take_turns_at_the_folder_as_threads_do(tmp_path):
    page = DOCS / "strategies.md"
    code = "".join(block.code for block in python(page) if block.file == "sessions.py")
    (tmp_path / "sessions.py").write_text(code)
    strategy = run(page)["FolderStrategy"](tmp_path / "folder")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with override_settings(SECRET_KEY="k" * 32, SECRET_KEY_FALLBACKS=[]):
        ends = datetime.now(UTC) + timedelta(hours=1)
        session_id = strategy.create_data({"count": 0}, ends)
        command = [sys.executable, "-c", COUNT, session_id]
        counting = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(4)]
        assert [process.wait(60) for process in counting] == [0] * 4
        assert strategy.read_data(session_id) == {"count": 4 * 50}


def test_storages_every_option_of_the_cookie_is_told():
    given = {field.name: repr(field.default).replace("'", '"') for field in fields(Cookie)}
    assert {name: default for name, default, _ in rows(DOCS / "storages.md", "The cookie")} == given


def test_async_a_visit_is_counted_in_an_event_loop(settings):
    settings.SESSION_STRATEGY = MEMORY
    visit, request = names_of("async.md")["visit"], RequestFactory().get("/")
    request.session = SessionStore()
    for number in (1, 2):
        assert run_in_loop(visit(request)).content == f"Visit {number}".encode()


@pytest.mark.django_db
def test_operations_a_user_is_logged_out_elsewhere_and_everywhere(post):
    page, user = names_of("operations.md"), User(pk=7)
    requests = [post() for _ in range(3)]
    for request in requests:
        request.user = user
        request.session["_auth_user_id"] = "7"
        request.session.save()
    assert page["sessions_of"](user).count() == 3
    page["log_out_elsewhere"](requests[0])
    keys = [request.session.session_key for request in requests]
    assert [SessionStore().exists(key) for key in keys] == [True, False, False]
    page["log_out_everywhere"](user)
    assert page["sessions_of"](user).count() == 0


class TestPsycopgStrategy(StrategyContract):
    """The PostgreSQL example of React Router's page, ported."""

    def make_strategy(self):
        return names_of("react-router.md")["PsycopgStrategy"](servers.postgres_url())

    def make_unavailable_strategy(self):
        nowhere = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/postgres"
        return names_of("react-router.md")["PsycopgStrategy"](nowhere)

    @pytest.fixture(autouse=True)
    def a_table(self):
        (sql,) = [b.code for b in blocks(DOCS / "react-router.md") if b.language == "sql"]
        with psycopg.connect(servers.postgres_url(), autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS session")
            connection.execute(sql)
            yield
            connection.execute("DROP TABLE session")


class TestRedisPyStrategy(StrategyContract):
    """The Redis example."""

    def make_strategy(self):
        return names_of("react-router.md")["RedisPyStrategy"](servers.redis_url())

    def make_unavailable_strategy(self):
        nowhere = f"redis://127.0.0.1:{servers.free_port()}/0"
        return names_of("react-router.md")["RedisPyStrategy"](nowhere)


def test_react_router_the_original_would_have_asked_redis_for_what_it_refuses():
    client = names_of("react-router.md")["RedisPyStrategy"](servers.redis_url()).redis
    with pytest.raises(redis.ResponseError, match="invalid expire"):
        client.execute_command("SETEX", "example:any", 0, "{}")


# -- settings.md is complete -----------------------------------------------------------------------

SETTINGS_PAGE = DOCS / "settings.md"


def test_settings_every_one_of_ours_is_told_with_its_default(settings):
    read = set(re.findall(r'settings(?:\.|, ")([A-Z][A-Z_]+)', SOURCE))
    told = {name: default for name, default, _ in rows(SETTINGS_PAGE, "Ours")}
    assert told.keys() == {name for name in read if not hasattr(global_settings, name)}
    assert told["SESSION_STRATEGY"].startswith(f"[{resolve(conf.DEFAULT_STRATEGY).__name__}]")
    assert eval(told["SESSION_MAX_SIZE"]) == records.DEFAULT_MAX_SIZE


def test_settings_every_one_of_djangos_is_told():
    told = {name for row in rows(SETTINGS_PAGE, "Django's") for name in row[0].split(", ")}
    assert told == {name for name in dir(global_settings) if re.match("SESSION_|MESSAGE_S", name)}


STRATEGIES = re.findall(r"^`(\S+\.\w+Strategy)`: ", SETTINGS_PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", STRATEGIES)
def test_settings_every_option_of_a_strategy_is_told_with_its_default(path):
    strategy = resolve(path)
    options = signature(strategy).parameters.values()
    wanted = {each.name: repr(each.default).replace("'", '"') for each in options}
    told = rows(SETTINGS_PAGE, strategy.__name__) if wanted else []
    assert {name: default for name, default, _ in told} == wanted


def test_settings_every_strategy_of_ours_is_told():
    ours = re.findall(r"^class ([A-Z]\w+Strategy)\(", SOURCE, re.MULTILINE)
    assert {path.rpartition(".")[2] for path in STRATEGIES} == {*ours} - {"NativeStrategy"}


def test_settings_every_check_is_told_with_its_hint(settings):
    told = {row[0]: row[2] for row in rows(SETTINGS_PAGE, "Checks")}
    assert told.keys() == set(re.findall(r"strategy_sessions\.[EW]\d{3}", SOURCE))
    for _, wrong in WRONG.values():
        with override_settings(**wrong):
            (message,) = check_sessions()
        assert squeezed(message.hint) in squeezed(told[message.id])


def squeezed(text):
    return "".join(text.replace("`", "").split())
