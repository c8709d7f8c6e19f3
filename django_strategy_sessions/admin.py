"""Sessions in the admin: who has one since when, and a way to end it. No ids, no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Length
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext_lazy as _

from .models import StoredSession

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[StoredSession]
else:
    _ModelAdmin = admin.ModelAdmin


@admin.register(StoredSession)
class StoredSessionAdmin(_ModelAdmin):
    fields: ClassVar[Any] = ("owner", "created", "expires", "size")
    readonly_fields: ClassVar[Any] = fields
    list_display: Any = fields
    list_display_links: Any = None
    search_fields: ClassVar[Any] = ("owner__exact",)
    search_help_text: ClassVar[Any] = _("The primary key of a user")
    ordering: ClassVar[Any] = ("-expires",)  # indexed
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[StoredSession]:
        rows = super().get_queryset(request)
        return rows.annotate(bytes=Length("data")).defer("data")

    @admin.display(description=_("size"), ordering="bytes")
    def size(self, session: Any) -> str:
        return filesizeformat(session.bytes)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: StoredSession | None = None) -> bool:
        return False
