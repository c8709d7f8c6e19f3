"""One site with other projects' packages in it. Wagtail and whole test suites have their own.

What changes every request (middleware, backends) is put in by the tests of the package.
"""

from ..settings import *  # noqa: F403
from ..settings import INSTALLED_APPS, MIDDLEWARE

ROOT_URLCONF = "tests.real_projects.urls"
STATIC_URL = "/static/"
INSTALLED_APPS = [
    *INSTALLED_APPS,
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.dummy",
    "allauth.usersessions",
    "axes",
    "debug_toolbar",
    "formtools",
    "hijack",
    "rest_framework",
]
MIDDLEWARE = [
    *MIDDLEWARE,
    "allauth.account.middleware.AccountMiddleware",
    "allauth.usersessions.middleware.UserSessionsMiddleware",
]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_RATE_LIMITS = False
LOGIN_REDIRECT_URL = "/accounts/sessions/"
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
}
AXES_ENABLED = AXES_VERBOSE = False
DEBUG_TOOLBAR_CONFIG = {"SHOW_TOOLBAR_CALLBACK": lambda request: True, "IS_RUNNING_TESTS": False}
