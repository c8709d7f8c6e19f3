from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from django.views.generic import TemplateView

from .docs import views as docs
from .outage import views as outage
from .race import views as race
from .shop import views

urlpatterns = [
    path("", views.shop, name="shop"),
    path("brewing/", TemplateView.as_view(template_name="shop/brewing.html"), name="brewing"),
    path("cart/", views.cart, name="cart"),
    path("cart/add/<slug:sku>/", views.add, name="add"),
    path("cart/change/<slug:sku>/", views.change, name="change"),
    path("cart/remove/<slug:sku>/", views.remove, name="remove"),
    path("cart/note/", views.note, name="note"),
    path("session/", views.session, name="session"),
    path("devices/", include("django_strategy_sessions.urls")),
    path("sign-in/", LoginView.as_view(template_name="shop/sign_in.html"), name="sign-in"),
    path("sign-out/", LogoutView.as_view(), name="sign-out"),
    # One set of views on two engines: the middleware of `race` goes by the path.
    path("race/", race.page, name="race"),
    path("race/django/", include("example_project.race.urls")),
    path("race/ours/", include("example_project.race.urls")),
    path("outage/", outage.page, name="outage"),
    path("outage/turn/", outage.turn, name="turn"),
    path("outage/cookie/", outage.cookie, name="cookie"),
    path("outage/visitor/", outage.visitor, name="visitor"),
    path("docs/", docs.page, name="docs"),
    path("docs/<path:path>", docs.file, name="file"),
    path("admin/", admin.site.urls),
]
