"""Rules that are written once for sync and async code, as generators that yield calls.

A generator of steps yields the name of a method and its arguments, and is sent the answer::

    def _insert(data: Data, expires: datetime) -> Steps[Stored]:
        session_id = yield from call(SessionStrategy.create_data, data, expires)
        ...

`run` calls that method of its target; `arun` awaits the method with an ``a`` before the name.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Each step is a tuple: (the method's name, *its arguments).
Steps = Generator[tuple[Any, ...], Any, T]


def call(method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Steps[T]:
    """Yield a call of the target's method. The method gets positional arguments only."""
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
