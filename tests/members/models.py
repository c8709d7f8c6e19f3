"""Users whose primary keys are UUIDs, or text with characters that URLs and the admin reserve."""

import os
import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models


def make_text():
    return f"staff/a_b ü {uuid.uuid4()}"


KEYS = {
    "uuid": lambda: models.UUIDField(primary_key=True, default=uuid.uuid4),
    "text": lambda: models.CharField(primary_key=True, max_length=60, default=make_text),
}


class Member(AbstractUser):
    id = KEYS[os.environ["TEST_MEMBERS"]]()
