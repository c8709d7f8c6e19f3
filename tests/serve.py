"""The suite's site on a real server: ``python -m tests.serve wsgi|asgi PORT``.

``TEST_SITE`` holds settings (JSON) in which it differs from ``tests.settings``.
"""

from __future__ import annotations

import json
import os
import sys

import django


def main(interface: str, port: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    from django.conf import settings

    for name, value in json.loads(os.environ.get("TEST_SITE", "{}")).items():
        setattr(settings, name, value)
    django.setup()
    if interface == "asgi":
        import uvicorn
        from django.core.asgi import get_asgi_application

        uvicorn.run(get_asgi_application(), port=port, log_level="warning")
    else:
        from django.core.servers.basehttp import run
        from django.core.wsgi import get_wsgi_application

        run("127.0.0.1", port, get_wsgi_application(), threading=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
