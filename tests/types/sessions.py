"""What type checkers know about sessions. Nothing here runs: mypy and pyright read it.

An ignored line is one that they must refuse: both complain of an ignore that ignores nothing.
"""

from datetime import datetime
from typing import Any, NotRequired, TypedDict, assert_type

from django.http import HttpRequest, HttpResponse

from django_strategy_sessions import (
    EngineSession,
    Session,
    SessionStorage,
    SessionStrategy,
    UserSession,
    aend_sessions,
    asessions_of,
    create_session_storage,
    end_session,
    end_sessions,
    engine_session,
    sessions_of,
    typed_session,
)
from django_strategy_sessions.engine import SessionStore


class Data(TypedDict):
    user_id: int
    cart: list[str]
    role: NotRequired[str]


class Flash(TypedDict):
    notice: str


def view(request: HttpRequest) -> HttpResponse:
    session = typed_session(request, Data)
    assert_type(session, Data)
    assert_type(session["user_id"], int)
    assert_type(session.get("role"), str | None)
    assert_type(session.setdefault("cart", []), list[str])
    assert_type("role" in session, bool)
    session["user_id"] = 7
    session["cart"].append("tea")
    session.pop("role", None)
    session["user"]  # type: ignore[typeddict-item]
    session["user_id"] = "7"  # type: ignore[typeddict-item]
    session["cart"].append(7)  # type: ignore[arg-type]
    return HttpResponse()


def own_methods(request: HttpRequest) -> None:
    session = engine_session(request)
    assert_type(session, EngineSession)
    session.flash("notice", "Saved.")
    assert_type(session.apply("visits", count, default=0), int)
    session.apply("visits", lambda visits: visits + 1, default=0)
    session.flash("notice")  # type: ignore[call-arg]
    session.apply("visits", 1)  # type: ignore[arg-type]
    session.falsh("notice", "Saved.")  # type: ignore[attr-defined]


def sessions_of_a_user(request: HttpRequest) -> None:
    for entry in sessions_of(request.user, current=request.session):
        assert_type(entry, UserSession)
        assert_type(entry.expires, datetime)
        if entry.sign_in is not None:
            assert_type(entry.sign_in.address, str | None)
            assert_type(entry.sign_in.device, str)
        assert_type(end_session(request.user, entry.reference), int)
        entry.reference = "another"  # type: ignore[misc]
    assert_type(end_sessions(request.user, keep=request.session), int)
    end_sessions(request.user.pk)  # type: ignore[arg-type]
    end_sessions(request.user, "everywhere")  # type: ignore[arg-type]


async def async_sessions_of_a_user(request: HttpRequest) -> None:
    assert_type(await asessions_of(request.user), list[UserSession])
    assert_type(await aend_sessions(request.user, keep=request.session), int)


async def own_async_methods(request: HttpRequest) -> None:
    session = engine_session(request)
    await session.aflash("notice", "Saved.")
    assert_type(await session.aapply("visits", count, default=0), int)


def count(visits: int) -> int:
    return visits + 1


store: EngineSession = SessionStore()  # which is what it describes


storage: SessionStorage[Data, Flash] = create_session_storage(
    "django_strategy_sessions.strategies.memory.MemoryStrategy",
    cookie={"name": "shop", "max_age": 3600},
)
of_one: SessionStorage[Data] = create_session_storage("a.path")
of_any = create_session_storage("a.path")


def explicit(request: HttpRequest, response: HttpResponse) -> None:
    session = storage.get_session(request)
    assert_type(session, Session[Data, Flash])
    assert_type(session.id, str)
    assert_type(session.data, Data)
    assert_type(session.data["user_id"], int)
    assert_type(session.typed["user_id"], int)
    assert_type(session.typed.get("role"), str | None)
    assert_type(session.typed_flash["notice"], str)
    assert_type(session.has("notice"), bool)
    session.typed["role"] = "admin"
    session.typed_flash["notice"] = "Saved."
    session.typed["roles"] = "admin"  # type: ignore[typeddict-unknown-key]
    session.typed["user_id"] = "7"  # type: ignore[typeddict-item]
    session.typed_flash["error"] = "No."  # type: ignore[typeddict-unknown-key]
    session.typed_flash["notice"] = 7  # type: ignore[typeddict-item]
    session.id = "mine"  # type: ignore[misc]
    assert_type(storage.commit_session(session, response, max_age=60), str)
    assert_type(storage.destroy_session(session, path="/"), str)
    storage.commit_session(session, maxage=60)  # type: ignore[call-arg]
    storage.commit_session(session, max_age="60")  # type: ignore[arg-type]


async def twins(request: HttpRequest) -> None:
    session = await storage.aget_session(request)
    assert_type(session, Session[Data, Flash])
    assert_type(await storage.acommit_session(session), str)
    assert_type(await storage.adestroy_session(session), str)


def defaults(request: HttpRequest) -> None:
    assert_type(of_one.get_session(request), Session[Data, Data])
    assert_type(of_any.get_session(request), Session[dict[str, Any], dict[str, Any]])
    assert_type(of_any.get_session(request).get("name"), Any)


class Complete(SessionStrategy):
    def read_data(self, session_id: str) -> int:  # type: ignore[override]
        return 0


create_session_storage(7)  # type: ignore[arg-type]
create_session_storage(Complete(), cookie={"nmae": "c"})  # type: ignore[arg-type]
