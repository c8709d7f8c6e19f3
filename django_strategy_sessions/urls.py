"""``include("django_strategy_sessions.urls")``: the page on which users see their sessions."""

from django.urls import URLPattern, path

from .views import SessionsView

app_name: str = "strategy_sessions"
urlpatterns: list[URLPattern] = [path("", SessionsView.as_view(), name="sessions")]
