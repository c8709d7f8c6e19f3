"""Sessions in the admin: see which users have one, and end it. It shows no ids and no data."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.admin.sites import AdminSite
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.db.models.functions import Left, Length
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from . import records
from .models import StoredSession

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[StoredSession]
else:
    _ModelAdmin = admin.ModelAdmin


class SessionList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        _name_users(self.model_admin.admin_site, request, self.result_list)


@admin.register(StoredSession)
class StoredSessionAdmin(_ModelAdmin):
    fields: ClassVar[Any] = ("user", "created", "expires", "size")
    readonly_fields: ClassVar[Any] = fields
    list_display: Any = ("created", "user", "expires", "size")  # the first links to the session
    search_fields: ClassVar[Any] = ("owner",)  # shows the search box; see get_search_results()
    search_help_text: ClassVar[Any] = _("The name or the primary key of a user")
    ordering: ClassVar[Any] = ("-expires",)  # indexed
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[StoredSession]:
        rows = super().get_queryset(request)
        # What a rotation leaves under the old key for a minute is no session.
        sessions = rows.alias(mac=Left("data", records.MAC_LENGTH)).exclude(mac=records.MOVED)
        return sessions.annotate(bytes=Length("data")).defer("data")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return SessionList

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> StoredSession | None:
        session = super().get_object(request, *args, **kwargs)
        if session is not None:
            _name_users(self.admin_site, request, [session])
        return session

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[StoredSession], search_term: str
    ) -> tuple[QuerySet[StoredSession], bool]:
        if search_term := search_term.strip():
            model = get_user_model()
            named = model._default_manager.filter(**{model.USERNAME_FIELD: search_term})
            owners = [search_term, *map(str, named.values_list("pk", flat=True))]
            queryset = queryset.filter(owner__in=owners)
        return queryset, False

    @admin.display(description=_("user"), ordering="owner")
    def user(self, session: Any) -> str | None:
        name: str | None = session.user_name
        return name

    @admin.display(description=_("size"), ordering="bytes")
    def size(self, session: Any) -> str:
        return filesizeformat(session.bytes)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: StoredSession | None = None) -> bool:
        return False


def _name_users(site: AdminSite, request: HttpRequest, sessions: Iterable[Any]) -> None:
    """Set the `user_name` of each session, with one query for all of their users."""
    users = _find_users({session.owner for session in sessions if session.owner})
    for session in sessions:
        user = users.get(session.owner)
        session.user_name = session.owner if user is None else _link_to(site, request, user)


def _find_users(owners: Iterable[str]) -> dict[str, Any]:
    """Find the users by the texts of their primary keys."""
    key = get_user_model()._meta.pk
    keys = []
    for owner in owners:
        with suppress(ValidationError):  # the key comes from an earlier user model
            key.run_validators(value := key.to_python(owner))
            keys.append(value)
    users = get_user_model()._default_manager.filter(pk__in=keys) if keys else []
    return {str(user.pk): user for user in users}


def _link_to(site: AdminSite, request: HttpRequest, user: Any) -> str:
    """Return the user's name, as a link to their page if this admin shows it to the reader."""
    model = type(user)
    if not site.is_registered(model):
        return str(user)
    if not site.get_model_admin(model).has_view_permission(request, user):
        return str(user)
    page = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
    url = reverse(page, args=[quote(user.pk)], current_app=site.name)
    return format_html('<a href="{}">{}</a>', url, user)
