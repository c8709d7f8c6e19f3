"""Rules that are written once for sync and async code, as generators that yield calls.

A generator of steps asks for what a store or a face can do, by name, and is sent the answer::

    def _insert(data: Data, expires: datetime) -> Steps[Stored]:
        session_id = yield from call(SessionStrategy.create_data, data, expires)
        ...

`run` makes each call on its target; `arun` awaits the method of the same name with an ``a`` before
it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# What is yielded is (the name of a method, *its arguments).
Steps = Generator[tuple[Any, ...], Any, T]


def call(method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Steps[T]:
    """Ask for a method of the target, which takes positional arguments only."""
    answer: T = yield method.__name__, *args
    return answer


def run(target: object, steps: Steps[T]) -> T:
    try:
        verb, *arguments = next(steps)
        while True:
            try:
                result = getattr(target, verb)(*arguments)
            except Exception as error:
                verb, *arguments = steps.throw(error)
            else:
                verb, *arguments = steps.send(result)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    except BaseException:
        arguments, result = [], None  # error reports show local variables
        raise


async def arun(target: object, steps: Steps[T]) -> T:
    try:
        verb, *arguments = next(steps)
        while True:
            try:
                result = await getattr(target, f"a{verb}")(*arguments)
            except Exception as error:
                verb, *arguments = steps.throw(error)
            else:
                verb, *arguments = steps.send(result)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    except BaseException:
        arguments, result = [], None  # error reports show local variables
        raise
