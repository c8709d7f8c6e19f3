"""Three pages: one signs in, one fills the cart, one shows both."""

from django.contrib.auth import get_user_model, login
from django.http import JsonResponse
from django.urls import path


def enter(request, name):
    user, _ = get_user_model().objects.get_or_create(username=name)
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    request.session["cart"] = []
    return show(request)


def add(request, item):
    request.session["cart"] = [*request.session.get("cart", []), item]
    return show(request)


def show(request):
    cart = request.session.get("cart")
    return JsonResponse({"name": request.user.get_username(), "cart": cart})


urlpatterns = [
    path("enter/<str:name>/", enter),
    path("add/<int:item>/", add),
    path("", show),
]
