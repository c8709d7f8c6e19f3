"""Django's own sessions beside ours, for the other side of the race."""

from importlib import import_module

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware

COOKIE = "djangos_sessionid"
PATH = "/race/django/"


class DjangosSessionMiddleware(SessionMiddleware):
    """Django's middleware on Django's engine, for requests below `PATH`.

    Its cookie bears the name in the settings, which is ours: it is renamed on its way in and out.
    """

    async_capable = False

    def __init__(self, get_response):
        super().__init__(get_response)
        self.SessionStore = import_module(settings.DJANGOS_ENGINE).SessionStore

    def __call__(self, request):
        if not request.path.startswith(PATH):
            return self.get_response(request)
        name, ours, cookies = settings.SESSION_COOKIE_NAME, request.session, request.COOKIES
        request.COOKIES = {key: value for key, value in cookies.items() if key != name}
        if COOKIE in cookies:
            request.COOKIES[name] = cookies[COOKIE]
        try:
            response = super().__call__(request)
        finally:
            request.session, request.COOKIES = ours, cookies
        if cookie := response.cookies.pop(name, None):
            cookie.set(COOKIE, cookie.value, cookie.coded_value)
            response.cookies[COOKIE] = cookie
        return response
