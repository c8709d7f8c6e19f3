"""What visitors see while the store is down: a page that says so, in their language."""

from __future__ import annotations

import ast
import re
import sys
from gettext import GNUTranslations
from pathlib import Path
from types import ModuleType

import pytest
from django.http import HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client
from django.urls import path

import django_strategy_sessions
from django_strategy_sessions.signing import sign
from django_strategy_sessions.strategies.base import StrategyUnavailable
from django_strategy_sessions.strategies.memory import MemoryStrategy

from . import urls
from .conftest import OURS, run_in_loop

STILL_SIGNED_IN = {
    "en": "If you were signed in, you still are.",
    "de": "Wenn Sie angemeldet waren, sind Sie es noch.",
    "fr": "Si vous étiez connecté, vous l\N{RIGHT SINGLE QUOTATION MARK}êtes toujours.",
    "es": "Si había iniciado sesión, sigue conectado.",
}
TITLE = "Back in a moment"


class DownStrategy(MemoryStrategy):
    def load(self, session_id):
        raise StrategyUnavailable("down") from OSError("no route to host")

    async def aload(self, session_id):
        self.load(session_id)


@pytest.fixture(autouse=True)
def down(settings):
    settings.SESSION_STRATEGY = f"{__name__}.DownStrategy"
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]


def get(client_class=Client, page="read/", **headers):
    """The answer to a visitor who comes with the key of a session."""
    client = client_class(raise_request_exception=False)
    client.cookies["sessionid"] = sign("a" * 22, "sessionid")
    response = client.get(f"/{page}", headers=headers)
    return response if client_class is Client else run_in_loop(response)


def text(response):
    return response.content.decode()


@pytest.fixture
def project_templates(settings, tmp_path):
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    return tmp_path


@pytest.fixture
def handler503(settings):
    """Set the project's ``handler503``."""

    def install(handler):
        module = ModuleType("project_urls")
        module.urlpatterns, module.handler503 = urls.urlpatterns, handler
        sys.modules[module.__name__] = module
        settings.ROOT_URLCONF = module.__name__

    yield install
    sys.modules.pop("project_urls", None)


@pytest.mark.parametrize(
    ("client", "page"), [(Client, "read/"), (AsyncClient, "read/"), (AsyncClient, "aread/")]
)
def test_the_page_says_that_the_visitor_is_still_signed_in(client, page):
    response = get(client, page)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "10"
    assert "no-store" in response.headers["Cache-Control"]
    assert TITLE in text(response)
    assert STILL_SIGNED_IN["en"] in text(response)
    assert "Error" not in text(response)
    assert "sessionid" not in response.cookies


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("language", STILL_SIGNED_IN)
def test_the_page_speaks_the_visitors_language(settings, language, client):
    locale = "django.middleware.locale.LocaleMiddleware"
    settings.MIDDLEWARE = [OURS, locale, *settings.MIDDLEWARE[1:]]
    response = get(client, accept_language=language)
    assert STILL_SIGNED_IN[language] in text(response)
    assert f'<html lang="{language}">' in text(response)


def test_a_language_that_we_do_not_have_gets_english_that_says_so(settings):
    settings.LANGUAGE_CODE = "fi"
    assert '<html lang="en">' in text(get())


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("*/*", "text/html"),
        ("", "text/html"),
        ("nonsense;q=x,,/", "text/html"),
        ("text/html;a*=no-such-encoding''x", "text/html"),
        ("text/html;a*=\0''x", "text/html"),
    ],
)
def test_a_client_that_wants_json_gets_json(accept, kind):
    response = get(accept=accept)
    assert response.status_code == 503
    assert response.headers["Content-Type"].partition(";")[0] == kind
    if kind == "application/json":
        assert STILL_SIGNED_IN["en"] in response.json()["detail"]


def test_the_projects_template_replaces_ours(project_templates):
    (project_templates / "503.html").write_text("<h1>Tea break</h1>{{ request.session.x }}")
    assert text(get()) == "<h1>Tea break</h1>"
    assert get(accept="application/json").headers["Content-Type"] == "application/json"


def test_the_projects_handler_replaces_the_template(project_templates, handler503):
    (project_templates / "503.html").write_text("<h1>Tea break</h1>")
    handler503(lambda request: HttpResponse(f"busy: {request.path}", headers={"Retry-After": "60"}))
    response = get()
    assert (response.status_code, text(response)) == (503, "busy: /read/")
    assert response.headers["Retry-After"] == "60"


def test_a_handler_may_be_named_and_may_return_a_template_response(project_templates, handler503):
    (project_templates / "busy.html").write_text("busy: {{ reason }}")
    handler503(f"{__name__}.template_response")
    assert text(get()) == "busy: tea"


def template_response(request):
    return TemplateResponse(request, "busy.html", {"reason": "tea"})


def test_a_handler_that_needs_the_session_itself_does_not_fail_the_page(handler503, caplog):
    handler503(lambda request: HttpResponse(request.session["name"]))
    response = get()
    assert response.status_code == 503
    assert TITLE in text(response)
    assert "503 page failed" in caplog.text


def test_a_template_that_is_broken_does_not_fail_the_page(project_templates):
    (project_templates / "503.html").write_text("{% no_such_tag %}")
    assert TITLE in text(get())


def test_the_page_needs_no_template_engine(settings):
    settings.TEMPLATES = []
    assert TITLE in text(get())


def test_developers_see_the_traceback(settings):
    settings.DEBUG = True
    response = get()
    assert response.status_code == 503
    assert "StrategyUnavailable" in text(response)
    assert f"<h1>{TITLE}</h1>" not in text(response)


@pytest.mark.parametrize(
    "answer",
    [HttpResponse("of the site", status=503), JsonResponse({"of": "the site"}, status=500)],
)
def test_a_503_of_the_sites_own_is_left_alone(settings, monkeypatch, answer):
    def view(request):
        with pytest.raises(StrategyUnavailable):
            request.session["name"]
        return answer

    handled = ModuleType("handled_urls")
    handled.urlpatterns = [path("read/", view)]
    monkeypatch.setitem(sys.modules, "handled_urls", handled)
    settings.ROOT_URLCONF = "handled_urls"
    response = get()
    assert response.status_code == 503
    assert "the site" in text(response)


def test_headers_and_cookies_of_the_sites_other_middleware_stay(settings):
    frames = "django.middleware.clickjacking.XFrameOptionsMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, frames]
    response = get()
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Vary"] == "Cookie"
    assert int(response.headers.get("Content-Length", len(response.content))) == len(
        response.content
    )


def test_an_error_that_is_no_outage_is_still_a_500(settings):
    settings.SESSION_STRATEGY = f"{MemoryStrategy.__module__}.MemoryStrategy"
    client = Client(raise_request_exception=False)
    response = client.get("/unserializable/")
    assert response.status_code == 500
    assert TITLE not in text(response)


PACKAGE = Path(django_strategy_sessions.__file__).parent
GETTEXTS = {"_", "gettext", "pgettext"}
TRANSLATE = re.compile(r"""{% translate (["'])(.+?)\1 (context '(.+?)' )?""")


def texts_of_the_package():
    """Every text that is marked for translation, with its context."""
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in GETTEXTS:
                *context, text = [argument.value for argument in node.args]
                yield "\x04".join([*context, text])
    for template in PACKAGE.rglob("*.html"):
        for _, text, _, context in TRANSLATE.findall(template.read_text()):
            yield "\x04".join(filter(None, [context, text]))


@pytest.mark.parametrize("language", ["de", "fr", "es"])
def test_every_text_is_translated_and_compiled(language):
    folder = PACKAGE / "locale" / language / "LC_MESSAGES"
    with (folder / "django.mo").open("rb") as compiled:
        translated = GNUTranslations(compiled)._catalog
    assert set(texts_of_the_package()) == {*translated} - {""}
    source = (folder / "django.po").read_text()
    assert all(f'msgstr "{text}"' in source for key, text in translated.items() if key)
