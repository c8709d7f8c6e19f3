from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from .shop import views

urlpatterns = [
    path("", views.shop, name="shop"),
    path("cart/", views.cart, name="cart"),
    path("cart/add/<slug:sku>/", views.add, name="add"),
    path("cart/change/<slug:sku>/", views.change, name="change"),
    path("cart/note/", views.note, name="note"),
    path("session/", views.session, name="session"),
    path("sign-in/", LoginView.as_view(template_name="shop/sign_in.html"), name="sign-in"),
    path("sign-out/", LogoutView.as_view(), name="sign-out"),
    path("admin/", admin.site.urls),
]
