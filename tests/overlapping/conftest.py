"""A visitor with a cart, on a site whose views do what a test tells them."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model

from ..in_flight import Browser


@pytest.fixture(autouse=True)
def site(settings):
    settings.ROOT_URLCONF = "tests.in_flight"


@pytest.fixture
def ada(strategy):
    return get_user_model().objects.create_user("ada", password="secret")


@pytest.fixture
def client(ada):
    """A visitor with a cart."""
    client = Browser()
    client.get("/write/?name=cart")
    return client
