"""Sessions of two tenants, each in a schema of its own: ``python -m tests.setups.tenants asgi``."""

from __future__ import annotations

import json
import os
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import django
from django.conf import settings
from django.http import JsonResponse
from django.urls import path

from tests.servers import Postgres, database, free_port

server = Postgres().start()
port = free_port()
shared = ["django_tenants", "tests.setups.customers", "django.contrib.contenttypes"]
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {**database(server.url), "ENGINE": "django_tenants.postgresql_backend"}},
    DATABASE_ROUTERS=["django_tenants.routers.TenantSyncRouter"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[*shared, "django_strategy_sessions"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=[
        "django_tenants.middleware.main.TenantMainMiddleware",
        "django_strategy_sessions.middleware.SessionMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this process: 0123456789 0123456789",
    SESSION_ENGINE="django_strategy_sessions.engine",
    SESSION_STRATEGY="django_strategy_sessions.strategies.postgres.PostgresStrategy",
    SHARED_APPS=shared,
    TENANT_APPS=["django_strategy_sessions"],
    TENANT_DOMAIN_MODEL="customers.Domain",
    TENANT_MODEL="customers.Customer",
    USE_TZ=True,
)


def visit(request):
    visits = request.session.apply("visits", lambda visits: visits + 1, 0)
    return JsonResponse({"tenant": request.tenant.name, "visits": visits})


async def avisit(request):
    visits = await request.session.aapply("visits", lambda visits: visits + 1, 0)
    request.session.setdefault("tenant", request.tenant.name)
    return JsonResponse({"tenant": await request.session.aget("tenant"), "visits": visits})


urlpatterns = [path("sync", visit), path("async", avisit)]


def get(tenant, page, cookie=None):
    headers = {"Host": f"{tenant}.example", **({"Cookie": cookie} if cookie else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{page}", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        sent = response.headers["Set-Cookie"]
        return json.load(response), sent and sent.partition(";")[0]


def browse(number):
    """Ten visits of one browser; its tenant is one of two."""
    tenant, page = ("one", "two")[number % 2], ("sync", "async")[number // 2 % 2]
    answer, cookie = get(tenant, page)
    assert answer == {"tenant": tenant, "visits": 1}
    for visits in range(2, 11):
        answer, _ = get(tenant, page, cookie)
        assert answer == {"tenant": tenant, "visits": visits}, (tenant, page, answer)
    return tenant, page, cookie


def serve(interface):
    if interface == "asgi":
        import uvicorn
        from django.core.asgi import get_asgi_application

        uvicorn.run(get_asgi_application(), port=port, log_level="warning")
    else:
        from django.core.servers.basehttp import run
        from django.core.wsgi import get_wsgi_application

        run("127.0.0.1", port, get_wsgi_application(), threading=True)


def wait_for_site():
    ends = threading.Event()
    for _ in range(600):
        try:
            return get("one", "sync")
        except OSError:
            ends.wait(0.05)
    raise AssertionError("The site does not answer.")


def main():
    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django_tenants.utils import schema_context

    from django_strategy_sessions.models import StoredSession
    from tests.setups.customers.models import Customer, Domain

    connection.set_schema_to_public()
    call_command("migrate_schemas", schema_name="public", run_syncdb=True, verbosity=0)
    for name in ("one", "two"):
        tenant = Customer.objects.create(schema_name=name, name=name)
        Domain.objects.create(domain=f"{name}.example", tenant=tenant, is_primary=True)
    threading.Thread(target=serve, args=sys.argv[1:], daemon=True).start()
    wait_for_site()
    with ThreadPoolExecutor(8) as browsers:
        visits = list(browsers.map(browse, range(24)))
    for tenant, more in (("one", 1), ("two", 0)):
        with schema_context(tenant):
            assert StoredSession.objects.count() == 12 + more
    # A key of one tenant's is no session of the other's.
    tenant, page, cookie = visits[0]
    answer, _ = get("two" if tenant == "one" else "one", page, cookie)
    assert answer["visits"] == 1


try:
    main()
except BaseException:
    import traceback

    traceback.print_exc()
    server.close()
    os._exit(1)
server.close()
os._exit(0)
