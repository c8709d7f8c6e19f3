"""Helpers by the names and with the arguments that the tests use."""

from unittest import mock

from django.conf import settings
from django.contrib.auth import get_user_model
from django.shortcuts import resolve_url
from django.test.utils import TestContextDecorator
from django_otp import DEVICE_ID_SESSION_KEY
from django_otp.oath import totp
from two_factor.plugins.registry import registry
from two_factor.utils import default_device, totp_digits

__all__ = ["UserMixin", "default_device", "method_registry", "totp_str"]


class UserMixin:
    """Users, the first of whom logs in."""

    login_url = property(lambda self: resolve_url(settings.LOGIN_URL))
    User = property(lambda self: get_user_model())

    def setUp(self):
        super().setUp()
        self.users = []  # with their passwords

    def create_user(self, username="bouke@example.com", password="secret", **more):
        return self._added(get_user_model().objects.create_user, username, password, more)

    def create_superuser(self, username="bouke@example.com", password="secret", **more):
        return self._added(get_user_model().objects.create_superuser, username, password, more)

    def _added(self, create, username, password, more):
        user = create(username=username, email=username, password=password, **more)
        self.users.append((user, password))
        return user

    def login_user(self):
        user, password = self.users[0]
        assert self.client.login(username=user.get_username(), password=password)
        if device := default_device(user):
            session = self.client.session
            session[DEVICE_ID_SESSION_KEY] = device.persistent_id
            session.save()

    def enable_otp(self, user=None):
        return (user or self.users[0][0]).totpdevice_set.create(name="default")


class method_registry(TestContextDecorator):
    """Leave only the methods with these codes."""

    def __init__(self, codes):
        super().__init__()
        self.codes = codes

    def enable(self):
        chosen = [method for method in registry._methods if method.code in self.codes]
        self.patch = mock.patch.object(registry, "_methods", chosen)
        self.patch.start()

    def disable(self):
        self.patch.stop()


def totp_str(key):
    return str(totp(key)).zfill(totp_digits())
