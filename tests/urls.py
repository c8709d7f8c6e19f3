"""A site with one view for each thing that views do to a session."""

from __future__ import annotations

from django.contrib import admin, auth, messages
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.urls import include, path


def untouched(request):
    return HttpResponse("untouched")


def read(request):
    return JsonResponse({"value": request.session.get("name"), "key": request.session.session_key})


def write(request):
    for name, value in request.GET.items():
        request.session[name] = value
    return HttpResponse("written")


def nested(request):
    request.session["cart"]["items"].append(request.GET["item"])
    return HttpResponse("changed in place")


def clear(request):
    request.session.clear()
    return HttpResponse("cleared")


def fail(request):
    request.session["name"] = "never stored"
    return HttpResponse(status=500)


def unserializable(request):
    request.session["kept"] = 1
    request.session["broken"] = object()
    return HttpResponse("never sent")


def login(request):
    user = auth.authenticate(request, username="ada", password="secret")
    auth.login(request, user)
    return HttpResponse("hello")


def logout(request):
    auth.logout(request)
    return HttpResponse("goodbye")


def whoami(request):
    return HttpResponse(request.user.get_username())


def csrf(request):
    return HttpResponse(get_token(request))


def flash(request):
    request.session.flash("notice", "saved")
    return HttpResponse("flashed")


def show(request):
    seen = [request.session.get("notice"), request.session.get("notice")]
    return JsonResponse({"seen": seen})


def say(request):
    messages.success(request, "well done")
    return HttpResponse("said")


def said(request):
    return JsonResponse({"messages": [str(m) for m in messages.get_messages(request)]})


def logincrash(request):
    login(request)
    raise RuntimeError("after the login")


@transaction.atomic
def loginundone(request):
    """What Django REST framework does with an error that it handles."""
    login(request)
    transaction.set_rollback(True)
    return HttpResponse("no", status=409)


@transaction.atomic
def logoutundone(request):
    logout(request)
    transaction.set_rollback(True)
    return HttpResponse("goodbye")


def logoutcrash(request):
    logout(request)
    raise RuntimeError("after the logout")


async def aread(request):
    value = await request.session.aget("name")
    return JsonResponse({"value": value, "key": request.session.session_key})


async def awrite(request):
    for name, value in request.GET.items():
        await request.session.aset(name, value)
    return HttpResponse("written")


async def alogin(request):
    user = await auth.aauthenticate(request, username="ada", password="secret")
    await auth.alogin(request, user)
    return HttpResponse("hello")


async def alogout(request):
    await auth.alogout(request)
    return HttpResponse("goodbye")


async def awhoami(request):
    return HttpResponse((await request.auser()).get_username())


VIEWS = [
    untouched, read, write, nested, clear, fail, unserializable, login, logout, whoami, csrf,
    logincrash, loginundone, logoutundone, logoutcrash, flash, show, say, said, aread, awrite,
    alogin, alogout, awhoami,
]  # fmt: skip

urlpatterns = [
    path("admin/", admin.site.urls),
    path("account/sessions/", include("django_strategy_sessions.urls")),
    *(path(f"{view.__name__}/", view) for view in VIEWS),
]
