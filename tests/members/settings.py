"""The suite's settings with a user model of the project's own."""

from ..settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.members"]  # noqa: F405
AUTH_USER_MODEL = "members.Member"
# Not the database of the tests that start these.
DATABASES["postgres"]["TEST"]["NAME"] = "test_members"  # noqa: F405
