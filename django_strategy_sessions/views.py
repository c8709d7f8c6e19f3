"""A page on which users see where they are signed in, and end their sessions."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.utils.decorators import method_decorator
from django.utils.http import escape_leading_slashes
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.generic import TemplateView

from .users import UserSession, end_session, end_sessions, sessions_of


@method_decorator([csrf_protect, never_cache], name="dispatch")
class SessionsView(LoginRequiredMixin, TemplateView):
    """Lists the user's sessions. A POST with `current` is a logout, one with `others` ends all
    others, and one with `session` the one with this reference. Then it redirects here."""

    template_name: Any = "django_strategy_sessions/sessions.html"

    def reauthenticate(self) -> HttpResponseBase | None:
        """Called before a session ends, other than the current one. Override it to return a
        response that asks the user to authenticate again (ASVS 7.5.2). ``None``: go on."""
        return None

    def get_sessions(self) -> list[UserSession]:
        """Return the sessions that the page shows: the current one first, then the newest."""
        found = sessions_of(self.request.user, current=self.request.session)
        return sorted(found, key=lambda one: not one.is_current)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**{"sessions": self.get_sessions(), **kwargs})

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        here = escape_leading_slashes(request.get_full_path())
        if "current" in request.POST:
            logout(request)
            return HttpResponseRedirect(resolve_url(settings.LOGOUT_REDIRECT_URL or here))
        if (response := self.reauthenticate()) is not None:
            return response
        if "others" in request.POST:
            end_sessions(request.user, keep=request.session)
            said = gettext("All other sessions have ended.")
        elif end_session(request.user, request.POST.get("session", "")):
            said = gettext("That session has ended.")
        else:
            said = gettext("That session had already ended.")
        messages.success(request, said, fail_silently=True)
        return HttpResponseRedirect(here)
