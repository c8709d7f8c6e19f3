"""Sessions in the admin: whose they are, and ending them. It shows no session ids and no data.

`StoredSessionAdmin` lists the table of the database strategies. `UserSessionsMixin`, on every
strategy, adds a page with the sessions of a user to the project's own ``UserAdmin``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.sites import AdminSite
from django.contrib.admin.utils import flatten_fieldsets, quote, unquote
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_permission_codename, get_user_model, logout
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import FieldDoesNotExist, PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db import router, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Left, Length
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from . import records
from .conf import conf
from .models import StoredSession
from .sign_ins import SignIn, read_sign_in
from .signals import STAFF, Ended, announce
from .strategies import get_strategy
from .users import (
    CannotListSessions,
    end_all_owned,
    end_session,
    end_sessions,
    owner_of,
    sessions_of,
)

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[StoredSession]
    _UserAdmin = admin.ModelAdmin[Any]
    _Paginator = Paginator[StoredSession]
else:
    _ModelAdmin = admin.ModelAdmin
    _UserAdmin = object
    _Paginator = Paginator


class SessionPaginator(_Paginator):
    """Counts and shows no more than the first `most` rows, because to count all reads all."""

    most: ClassVar[int] = 10_000

    @cached_property
    def _found(self) -> int:
        rows: Any = self.object_list
        found: int = rows.order_by().values("pk")[: self.most + 1].count()
        return found

    @cached_property
    def count(self) -> int:
        return min(self._found, self.most)

    @property
    def is_cut(self) -> bool:
        return self._found > self.most


class SessionList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        _describe(self.model_admin.admin_site, request, self.result_list)


class StateFilter(admin.SimpleListFilter):
    title: Any = _("state")
    parameter_name: Any = "state"

    def lookups(self, *args: Any) -> list[tuple[str, Any]]:
        return [("live", _("Live")), ("expired", _("Expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = datetime.now(UTC)
        if self.value() == "live":
            return queryset.filter(expires__gt=now)
        if self.value() == "expired":
            return queryset.filter(expires__lte=now)
        return queryset


class SignedInFilter(admin.SimpleListFilter):
    title: Any = _("user")
    parameter_name: Any = "user"

    def lookups(self, *args: Any) -> list[tuple[str, Any]]:
        return [("signed-in", _("Signed in")), ("anonymous", _("Anonymous"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() in {"signed-in", "anonymous"}:
            return queryset.filter(owner__isnull=self.value() == "anonymous")
        return queryset


@admin.register(StoredSession)
class StoredSessionAdmin(_ModelAdmin):
    fields: ClassVar[Any] = ("user", "created", "device", "address", "expires", "size")
    readonly_fields: ClassVar[Any] = fields
    # The first links to the session.
    list_display: Any = ("created", "user", "device", "address", "expires", "size")
    list_filter: ClassVar[Any] = (StateFilter, SignedInFilter)
    search_fields: ClassVar[Any] = ("owner",)  # shows the search box; see get_search_results()
    search_help_text: ClassVar[Any] = _("The name, the e-mail address or the primary key of a user")
    ordering: ClassVar[Any] = ("-expires",)  # indexed
    actions: Any = ("end_all",)
    paginator: ClassVar[Any] = SessionPaginator
    # Each of these would count the whole table.
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def get_queryset(self, request: HttpRequest) -> QuerySet[StoredSession]:
        rows = super().get_queryset(request)
        # What a rotation leaves under the old key for a minute is no session, nor is the gate.
        sessions = rows.alias(mac=Left("data", records.MAC_LENGTH)).exclude(mac=records.MOVED)
        sessions = sessions.exclude(pk=records.GATE)
        sessions = sessions.annotate(bytes=Length("data"))
        return sessions if conf.SESSION_SIGN_INS else sessions.defer("data")

    def get_list_display(self, request: HttpRequest) -> Any:
        return _known(super().get_list_display(request))

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return _known(super().get_fields(request, obj))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return SessionList

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> StoredSession | None:
        session = super().get_object(request, *args, **kwargs)
        if session is not None:
            _describe(self.admin_site, request, [session])
        return session

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[StoredSession], search_term: str
    ) -> tuple[QuerySet[StoredSession], bool]:
        if search_term := search_term.strip():
            owners = [search_term, *_find_owners(search_term)]
            queryset = queryset.filter(Q(owner__in=owners) | Q(impersonator__in=owners))
        return queryset, False

    @admin.display(description=_("user"), ordering="owner")
    def user(self, session: Any) -> str | None:
        name: str | None = session.user_name
        return name

    @admin.display(description=_("device"))
    def device(self, session: Any) -> str | None:
        noted: SignIn | None = session.sign_in
        return noted.device if noted else None

    @admin.display(description=_("address"))
    def address(self, session: Any) -> str | None:
        noted: SignIn | None = session.sign_in
        return noted.address if noted else None

    @admin.display(description=_("size"), ordering="bytes")
    def size(self, session: Any) -> str:
        return filesizeformat(session.bytes)

    @admin.action(
        permissions=["delete"], description=_("End all sessions of the users of selected sessions")
    )
    def end_all(self, request: HttpRequest, queryset: QuerySet[StoredSession]) -> None:
        owners = {session.owner for session in queryset if session.owner}
        users = _find_users(owners)
        ended = 0
        try:
            for owner in owners:
                count = end_all_owned(owner, _own_session(request), STAFF)
                ended += count
                if count and owner in users:
                    self.log_change(request, users[owner], _say_ended(count))
        except CannotListSessions as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self.message_user(request, _say_ended(ended))

    def delete_model(self, request: HttpRequest, obj: StoredSession) -> None:
        _end(request, [obj])
        self.get_queryset(request).filter(pk=obj.pk).delete()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[StoredSession]) -> None:
        _end(request, queryset)
        queryset.delete()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: StoredSession | None = None) -> bool:
        return False


class UserSessionsMixin(_UserAdmin):
    """For the project's ``UserAdmin``: a page that lists and ends the sessions of a user.

    The user's page links to it. Name "user_sessions" in `fieldsets` to choose where. To see the
    page, staff need the permission to view the user and to view sessions; to end sessions, to
    delete them.
    """

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.user_sessions_view)
        name = _name_page(self.opts)
        return [path("<path:object_id>/sessions/", view, name=name), *super().get_urls()]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*super().get_readonly_fields(request, obj), "user_sessions")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or "user_sessions" in flatten_fieldsets(fieldsets):
            return fieldsets
        if not _may(request, "view", "delete"):
            return fieldsets
        return (*fieldsets, (_("Sessions"), {"fields": ("user_sessions",)}))

    @admin.display(description=_("sessions"))
    def user_sessions(self, user: Any) -> str | None:
        if user.pk is None:
            return None
        url = self._reverse_page(user)
        return format_html('<a href="{}">{}</a>', url, gettext("Show where the user is signed in"))

    def user_sessions_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        user = self.get_object(request, unquote(object_id))
        if user is None:
            raise Http404
        if not (self.has_view_permission(request, user) and _may(request, "view", "delete")):
            raise PermissionDenied
        if request.method == "POST":
            return self._end_sessions(request, user)
        own = _own_session(request)
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Sessions of {user}").format(user=user),
            "opts": self.opts,
            "original": user,
            "may_end": _may(request, "delete"),
        }
        try:
            entries = sessions_of(user, current=own)
        except CannotListSessions as error:
            context["error"] = str(error)
        else:
            context["sessions"] = entries
            context["has_current"] = any(one.is_current for one in entries)
            context["has_sign_ins"] = any(one.sign_in for one in entries)
        request.current_app = self.admin_site.name  # for {% url %}
        return TemplateResponse(
            request, "admin/django_strategy_sessions/user_sessions.html", context
        )

    def _end_sessions(self, request: HttpRequest, user: Any) -> HttpResponse:
        if not _may(request, "delete"):
            raise PermissionDenied
        try:
            if "all" in request.POST:
                count = end_sessions(user, keep=_own_session(request), reason=STAFF)
            else:
                count = end_session(user, request.POST.get("reference", ""), STAFF)
        except CannotListSessions as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            if count:
                self.log_change(request, user, _say_ended(count))
            self.message_user(request, _say_ended(count))
        return HttpResponseRedirect(self._reverse_page(user))

    def _reverse_page(self, user: Any) -> str:
        page = f"admin:{_name_page(self.opts)}"
        return reverse(page, args=[quote(user.pk)], current_app=self.admin_site.name)


def _name_page(opts: Any) -> str:
    return f"{opts.app_label}_{opts.model_name}_sessions"


def _may(request: HttpRequest, *actions: str) -> bool:
    """Whether the reader may do any of this with sessions."""
    opts = StoredSession._meta
    return any(
        request.user.has_perm(f"{opts.app_label}.{get_permission_codename(action, opts)}")
        for action in actions
    )


def _own_session(request: HttpRequest) -> SessionBase | None:
    """Return the reader's session, which "end all" spares. ``None``: another engine keeps it."""
    return request.session if hasattr(request.session, "references") else None


def _known(columns: Iterable[Any]) -> list[Any]:
    """Leave out what sessions do not note."""
    missing = () if conf.SESSION_SIGN_INS else ("device", "address")
    return [name for name in columns if name not in missing]


def _say_ended(count: int) -> str:
    return gettext("Sessions ended: {count}.").format(count=count)


def _end(request: HttpRequest, sessions: Iterable[StoredSession]) -> None:
    """End the sessions that have a user as the strategy does: under their present keys, if another
    request rotates one meanwhile, and with the signal."""
    strategy = get_strategy()
    if not strategy.finds_owners:
        return
    own: Any = _own_session(request)
    kept = own.references() if own is not None else ()
    references: dict[str, list[str]] = defaultdict(list)
    for session in sessions:
        if session.pk.hex in kept:
            logout(request)  # so that this response does not fail to save the session
        elif session.owner:
            references[session.owner].append(session.pk.hex)
    for owner, theirs in references.items():
        ended = [Ended(owner, STAFF)] * strategy.end_owned(owner, theirs)
        # The delete page is one transaction, which may yet be rolled back.
        transaction.on_commit(
            partial(announce, type(strategy), ended), router.db_for_write(StoredSession)
        )


def _describe(site: AdminSite, request: HttpRequest, sessions: Collection[Any]) -> None:
    """Set what the admin shows of each session beside its columns."""
    _name_users(site, request, sessions)
    if conf.SESSION_SIGN_INS:
        for session in sessions:
            session.sign_in = read_sign_in(records.unseal(session.pk.hex, session.data) or {})


def _name_users(site: AdminSite, request: HttpRequest, sessions: Iterable[Any]) -> None:
    """Set the `user_name` of each session, with one query for all of their users."""
    owners = {owner for one in sessions for owner in (one.owner, one.impersonator) if owner}
    users = _find_users(owners)
    names = {owner: _link_to(site, request, user) for owner, user in users.items()}
    for session in sessions:
        session.user_name = names.get(session.owner, session.owner)
        if session.impersonator:
            session.user_name = format_html(
                gettext("{user}, impersonated by {staff}"),
                user=session.user_name,
                staff=names.get(session.impersonator, session.impersonator),
            )


def _find_users(owners: Iterable[str]) -> dict[str, Any]:
    """Find the users by the texts of their primary keys."""
    key = get_user_model()._meta.pk
    keys = []
    for owner in owners:
        with suppress(ValidationError):  # the key comes from an earlier user model
            key.run_validators(value := key.to_python(owner))
            keys.append(value)
    users = get_user_model()._default_manager.filter(pk__in=keys) if keys else []
    return {str(owner_of(user)): user for user in users}


def _find_owners(term: str) -> list[str]:
    """Return the owner of each user who has this name or this e-mail address."""
    model: Any = get_user_model()
    fields = {model.USERNAME_FIELD}
    with suppress(FieldDoesNotExist):
        fields.add(model._meta.get_field(model.get_email_field_name()).name)
    owners: list[Any] = []
    for field in fields:
        with suppress(ValueError, ValidationError):  # the field holds no such values
            owners += map(owner_of, model._default_manager.filter(**{field: term}))
    return owners


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
