"""The table that the database strategies share."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.dispatch import Signal
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    _DateTimeField = models.DateTimeField[datetime, datetime]
else:
    _DateTimeField = models.DateTimeField


class UTCDateTimeField(_DateTimeField):
    """Aware UTC datetimes, also with ``USE_TZ=False``: daylight saving must not move an expiry."""

    def get_prep_value(self, value: datetime | None) -> datetime | None:
        return value  # Django's warns about aware values if USE_TZ is off

    def get_db_prep_value(
        self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False
    ) -> Any:
        if value is not None and not settings.USE_TZ and connection.vendor != "postgresql":
            value = value.astimezone(UTC).replace(tzinfo=None)
        return connection.ops.adapt_datetimefield_value(value)

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        if not settings.USE_TZ and compiler.connection.vendor == "postgresql":
            # Django would read it as local time, which repeats an hour in autumn.
            sql = f"{sql} AT TIME ZONE 'UTC'"
        return sql, params

    def from_db_value(self, value: datetime | None, *args: Any) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


# Sent before the project's own code, or the admin, deletes rows.
deleting_rows: Signal = Signal()


class _Sessions(models.QuerySet["StoredSession"]):
    def delete(self) -> tuple[int, dict[str, int]]:
        deleting_rows.send(StoredSession)
        return super().delete()

    # As Django marks its own: not for templates, and not a method of the manager.
    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]


class StoredSession(models.Model):
    """One session at rest. Someone who can read or write the table can neither use a session nor
    forge its data."""

    # records.hashed(session_id)
    id: models.UUIDField[str | uuid.UUID, uuid.UUID] = models.UUIDField(
        primary_key=True, editable=False
    )
    # records.seal(session_id, data)
    data: models.TextField[str, str] = models.TextField(editable=False)
    expires: UTCDateTimeField = UTCDateTimeField(_("expires"))
    # str of a user's primary key
    owner: models.CharField[str | None, str | None] = models.CharField(  # noqa: DJ001
        _("owner"), max_length=255, null=True
    )
    # The same, of the user who impersonates the owner
    impersonator: models.CharField[str | None, str | None] = models.CharField(  # noqa: DJ001
        _("impersonator"), max_length=255, null=True
    )
    created: UTCDateTimeField = UTCDateTimeField(_("created"))

    objects: ClassVar[models.Manager[StoredSession]] = _Sessions.as_manager()

    class Meta:
        verbose_name: ClassVar[Any] = _("session")
        verbose_name_plural: ClassVar[Any] = _("sessions")
        # Not db_index=True, because that makes a second index for a CharField on PostgreSQL.
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["expires"], name="strategy_sessions_expires"),
            models.Index(fields=["owner"], name="strategy_sessions_owner"),
            models.Index(fields=["impersonator"], name="strategy_sessions_impersonator"),
        ]

    def __str__(self) -> str:
        return f"Session of {self.owner}" if self.owner else "Anonymous session"

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        deleting_rows.send(StoredSession)
        return super().delete(*args, **kwargs)
