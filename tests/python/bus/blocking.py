"""The synchronous SDK behind the interface of the asynchronous one, so that both are judged by the same cases.

Every call goes to the synchronous object itself, in a thread. What is awaited is decided by the asynchronous class that
stands beside it: both have the same methods.
"""
import asyncio
import contextvars
import functools
import inspect
from concurrent.futures import ThreadPoolExecutor

# A thread that waits for a message costs nothing; one too few would make cases wait for each other.
THREADS = ThreadPoolExecutor(max_workers=128)
END = object()


async def in_thread(function, *arguments, **options):
    call = functools.partial(contextvars.copy_context().run, function, *arguments, **options)
    return await asyncio.get_running_loop().run_in_executor(THREADS, call)


class Blocking:
    """One object of the synchronous SDK."""

    def __init__(self, inner, twin, twins):
        self._inner, self._twin, self._twins = inner, twin, twins

    def _wrap(self, value):
        twin = self._twins.get(type(value))
        return value if twin is None else Blocking(value, twin, self._twins)

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def unwrapped(*arguments, **options):
            inner = [argument._inner if isinstance(argument, Blocking) else argument for argument in arguments]
            return functools.partial(value, *inner, **options)

        if inspect.iscoroutinefunction(inspect.unwrap(getattr(self._twin, name))):
            async def awaited(*arguments, **options):
                return self._wrap(await in_thread(unwrapped(*arguments, **options)))
            return awaited
        return lambda *arguments, **options: self._wrap(unwrapped(*arguments, **options)())

    async def __aenter__(self):
        await in_thread(self._inner.__enter__)
        return self

    async def __aexit__(self, *error):
        await in_thread(self._inner.__exit__, *error)

    def __aiter__(self):
        self._iterator = iter(self._inner)
        return self

    async def __anext__(self):
        value = await in_thread(next, self._iterator, END)
        if value is END:
            raise StopAsyncIteration
        return value
