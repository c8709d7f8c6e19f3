"""Cookies: what browsers refuse, how to write ``Set-Cookie``, and how to read ``Cookie``."""

from __future__ import annotations

from collections.abc import Iterator
from http.cookies import Morsel
from typing import Any

from django.http import HttpRequest

_MOST = 10  # cookies read per name, because each costs an HMAC


def refusals(
    name: str, *, secure: bool, path: str, domain: str | None, same_site: str, partitioned: bool
) -> Iterator[tuple[str, str]]:
    """Yield each reason for which browsers would discard the cookie (RFC 6265bis, 5.7).

    A reason is the wrong attribute and a text that says what to change. With a discarded cookie
    nobody can log in.
    """
    if name.startswith(("__Host-", "__Secure-")) and not secure:
        yield "secure", "has to be secure, with this name"
    if name.startswith("__Host-") and (domain or path != "/"):
        yield "path", "cannot have a domain, or a path other than '/', with this name"
    if same_site.lower() == "none" and not secure:
        yield "same_site", "has to be secure with same_site none"
    if partitioned and not secure:
        yield "partitioned", "has to be secure to be partitioned"


# In React Router's order.
_ATTRIBUTES = {
    "max-age": "Max-Age",
    "domain": "Domain",
    "path": "Path",
    "expires": "Expires",
    "httponly": "HttpOnly",
    "secure": "Secure",
    "partitioned": "Partitioned",
    "samesite": "SameSite",
}


class Cookie(Morsel[str]):
    """One ``Set-Cookie`` header, for ``response.cookies`` or as text.

    Attributes that are ``None``, ``False`` or empty are left out.
    """

    def __init__(self, name: str, value: str, **attributes: Any) -> None:
        super().__init__()
        self.set(name, value, value)
        # Python's cookies support Partitioned from 3.14 only, and Django's not at all.
        self._is_partitioned = bool(attributes.pop("partitioned", False))
        if (max_age := attributes.pop("max_age", None)) is not None:
            self["max-age"] = max_age
        self.update({key: given for key, given in attributes.items() if given})

    def __reduce__(self) -> Any:  # caches pickle responses
        return _restore, (type(self), self.key, self.value, {**self}, self._is_partitioned)

    def OutputString(self, attrs: Any = None) -> str:  # noqa: N802
        return super().OutputString(attrs) + ("; Partitioned" if self._is_partitioned else "")

    def as_text(self) -> str:
        given: dict[str, Any] = {**self, "partitioned": self._is_partitioned}
        attributes = (
            label if given[key] is True else f"{label}={given[key]}"
            for key, label in _ATTRIBUTES.items()
            if given[key] is not False and given[key] != ""
        )
        return "; ".join([f"{self.key}={self.value}", *attributes])


def _restore(
    kind: type[Cookie], name: str, value: str, attributes: dict[str, Any], partitioned: bool
) -> Cookie:
    cookie = kind(name, value, partitioned=partitioned)
    cookie.update(attributes)
    return cookie


def sent_values(source: HttpRequest | str | None, name: str) -> list[str]:
    """Return the values of all cookies of one name, in the order of the ``Cookie`` header.

    After a change of a cookie's domain or path, a browser also sends the old cookie, for weeks, and
    ``request.COOKIES`` holds only the last. If a test or a middleware has changed
    ``request.COOKIES``, its value wins.
    """
    if not isinstance(source, HttpRequest):
        return _values_in(source or "", name)
    header, given = source.META.get("HTTP_COOKIE", ""), source.COOKIES.get(name)
    values = _values_in(header, name) if header.count(name) > 1 else []
    if given in values:
        return values
    return [] if given is None else [given]


def _values_in(header: str, name: str) -> list[str]:
    pairs = (pair.partition("=") for pair in header.split(";"))
    return [value.strip() for key, _, value in pairs if key.strip() == name][:_MOST]
