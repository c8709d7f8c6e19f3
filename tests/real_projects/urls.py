from allauth.account.decorators import reauthentication_required
from django.urls import include, path
from rest_framework.response import Response
from rest_framework.views import APIView

from django_strategy_sessions.views import SessionsView

from ..urls import urlpatterns as suites


class Cart(APIView):
    def get(self, request):
        return Response(request.session.get("cart", []))

    def post(self, request):
        return Response(
            request.session.apply("cart", lambda cart: [*cart, request.data["item"]], [])
        )


urlpatterns = [
    *suites,
    path("__debug__/", include("debug_toolbar.urls")),
    path("hijack/", include("hijack.urls")),
    path("accounts/", include("allauth.urls")),
    path("careful/sessions/", reauthentication_required(SessionsView.as_view(), allow_get=True)),
    path("api/cart/", Cart.as_view()),
    path("api/auth/", include("rest_framework.urls")),
]
