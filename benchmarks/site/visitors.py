"""Users who are logged in and visit a site, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter

from aiohttp import ClientSession, CookieJar
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User

PASSWORD = "of the benchmark's users"  # noqa: S105


def register(count: int) -> list[str]:
    password = make_password(PASSWORD)
    names = [f"visitor{number}" for number in range(count)]
    User.objects.bulk_create(
        [User(username=name, password=password) for name in names], ignore_conflicts=True
    )
    return names


class Visitor:
    def __init__(self, name: str, client: ClientSession) -> None:
        self.name, self.client = name, client
        self.token = ""

    async def login(self) -> None:
        if not self.token:
            self.token = await self._visit("GET", "login/")
        form = {"username": self.name, "password": PASSWORD}
        self.token = await self._visit("POST", "login/", form)

    async def read(self) -> None:
        await self._visit("GET", "read/")

    async def write(self) -> None:
        await self._visit("POST", "write/")

    async def _visit(self, method: str, page: str, form: dict[str, str] | None = None) -> str:
        headers = {"X-CSRFToken": self.token}
        async with self.client.request(method, page, data=form, headers=headers) as response:
            response.raise_for_status()
            return await response.text()


@asynccontextmanager
async def logged_in(url: str, names: list[str]) -> AsyncIterator[list[Visitor]]:
    async with AsyncExitStack() as stack:
        visitors = []
        for name in names:
            jar = CookieJar(unsafe=True)  # which accepts cookies of an address, too
            client = ClientSession(url, cookie_jar=jar)
            visitors.append(Visitor(name, await stack.enter_async_context(client)))
        await asyncio.gather(*(visitor.login() for visitor in visitors))
        yield visitors


async def time_per_visit(visitors: list[Visitor], verb: str, seconds: float) -> float:
    """In microseconds, where each is always on a visit, and makes at least one."""
    begun = perf_counter()

    async def stay(visitor: Visitor) -> int:
        count = 0
        while count == 0 or perf_counter() < begun + seconds:
            await getattr(visitor, verb)()
            count += 1
        return count

    count = sum(await asyncio.gather(*(stay(visitor) for visitor in visitors)))
    return (perf_counter() - begun) / count * 1e6
