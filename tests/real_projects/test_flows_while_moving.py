"""What keeps its state in the session and is begun before the move, or on one release, and ended
after it, or on the other: an allauth sign-in, a wizard of formtools, Django's password reset."""

from __future__ import annotations

import pytest
from django import forms
from django.contrib.auth.models import User
from django.contrib.auth.tokens import default_token_generator
from django.http import JsonResponse
from django.test import Client
from django.urls import include, path
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from formtools.wizard.views import SessionWizardView

from ..conftest import DJANGOS, POSTGRES, REDIS
from ..moving.conftest import BACKENDS, MIDDLEWARE, Site, stores  # noqa: F401
from .urls import urlpatterns as others

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.usefixtures("stores"),
]

PASSWORD = "Nq83-Zz1!"
ALLAUTH = "allauth.account.middleware.AccountMiddleware"
RELEASES = [
    ("old", "accept"),
    ("accept", "old"),
    ("old", "move"),
    ("accept", "move"),
    ("move", "accept"),
    ("move", "done"),
]


class Kind(forms.Form):
    kind = forms.CharField()


class Address(forms.Form):
    street = forms.CharField()


class Order(SessionWizardView):
    form_list = [("kind", Kind), ("address", Address)]

    def done(self, form_list, **kwargs):
        return JsonResponse(self.get_all_cleaned_data())


urlpatterns = [
    *others,
    path("order/", Order.as_view()),
    path("auth/", include("django.contrib.auth.urls")),
]


@pytest.fixture(params=[("db", POSTGRES), ("cache", REDIS)], ids=["db", "cache"])
def site(request, settings):
    name, target = request.param
    return Site(
        f"{BACKENDS}.{name}",
        target,
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[DJANGOS, *MIDDLEWARE, ALLAUTH],
    )


@pytest.fixture
def browser(site):
    """Sends each request to the release that is named."""
    cookies = Client().cookies

    def request(release, method, *given):
        with getattr(site, release):
            client = Client()
            client.cookies = cookies
            return getattr(client, method)(*given)

    return request


across_releases = pytest.mark.parametrize(("first", "last"), RELEASES, ids="-".join)


@across_releases
def test_a_sign_in_of_allauth(browser, first, last):
    begun = browser(first, "post", "/accounts/dummy/login/?process=login")
    assert begun.url.startswith("/accounts/dummy/authenticate/?state=")
    form = {"id": 7, "email": "ada@example.com", "email_verified": True}
    assert browser(last, "post", begun.url, form).status_code == 302
    name = User.objects.get(email="ada@example.com").username
    assert browser(last, "get", "/whoami/").content == name.encode()


@across_releases
def test_a_wizard_of_formtools(browser, first, last):
    browser(first, "get", "/order/")
    form = {"order-current_step": "kind", "kind-kind": "sencha"}
    assert browser(first, "post", "/order/", form).status_code == 200
    form = {"order-current_step": "address", "address-street": "Tea Street 1"}
    answer = browser(last, "post", "/order/", form)
    assert answer.json() == {"kind": "sencha", "street": "Tea Street 1"}


@across_releases
def test_a_password_reset_of_djangos(browser, first, last):
    user = User.objects.create_user("ada", "ada@example.com", "forgotten")
    number = urlsafe_base64_encode(force_bytes(user.pk))
    link = f"/auth/reset/{number}/{default_token_generator.make_token(user)}/"
    begun = browser(first, "get", link)
    assert begun.url == f"/auth/reset/{number}/set-password/"
    form = {"new_password1": PASSWORD, "new_password2": PASSWORD}
    assert browser(last, "post", begun.url, form).url == "/auth/reset/done/"
    user.refresh_from_db()
    assert user.check_password(PASSWORD)
