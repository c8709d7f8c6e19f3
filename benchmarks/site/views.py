"""Login with Django's own authentication; pages that read and write the visitor's session."""

from __future__ import annotations

from django.contrib import auth
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.urls import path

FILL = {f"seen_{number}": "blue shirt, size for the next order" for number in range(18)}  # 1 kB


def login(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        user = auth.authenticate(request, **request.POST.dict())
        if user is None:
            raise PermissionDenied
        auth.login(request, user)
        request.session.update(FILL)
    return HttpResponse(get_token(request))


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{_user(request.user)} {request.session.get('visits', 0)}")


def write(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return read(request)


async def alogin(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        user = await auth.aauthenticate(request, **request.POST.dict())
        if user is None:
            raise PermissionDenied
        await auth.alogin(request, user)
        await request.session.aupdate(FILL)
    return HttpResponse(get_token(request))


async def aread(request: HttpRequest) -> HttpResponse:
    visits = await request.session.aget("visits", 0)
    return HttpResponse(f"{_user(await request.auser())} {visits}")


async def awrite(request: HttpRequest) -> HttpResponse:
    await request.session.aset("visits", await request.session.aget("visits", 0) + 1)
    return await aread(request)


def _user(user: object) -> str:
    if not getattr(user, "is_authenticated", False):
        raise PermissionDenied
    return str(user)


urlpatterns = [
    path("wsgi/login/", login),
    path("wsgi/read/", read),
    path("wsgi/write/", write),
    path("asgi/login/", alogin),
    path("asgi/read/", aread),
    path("asgi/write/", awrite),
]
