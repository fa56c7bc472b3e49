"""An event loop whose time is virtual: it jumps to the next timer when nothing is ready.

Every callback belongs to the process in whose context it was scheduled. The callbacks of a process that is frozen are
held back, timers and all: that is a pause, and for ever it is a crash, at whatever await each task stands.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class StuckError(Exception):
    """Nothing is scheduled any more, or it takes too long."""


@dataclass(eq=False)
class Process:
    """What can be frozen: the tasks of a node."""

    name: str
    frozen: bool = False
    held: list[asyncio.Handle] = field(default_factory=list)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    context: Context = field(default_factory=Context)

    def __post_init__(self) -> None:
        self.context.run(_process.set, self)


_process: ContextVar[Process | None] = ContextVar("process", default=None)


class SimulatedLoop(asyncio.BaseEventLoop):
    """A loop without sockets and threads."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, limit_seconds: float) -> None:
        super().__init__()
        self._now = 0.0
        self.limit_seconds = limit_seconds
        self.faults: list[str] = []
        """What went wrong outside any task that is awaited."""
        self.set_exception_handler(self._note)
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def thaw(self, process: Process) -> None:
        """Let a frozen process go on."""
        process.frozen = False
        self._ready.extend(process.held)
        process.held.clear()

    def run_in_executor(
        self,
        executor: object,  # noqa: ARG002 - there are no threads here
        func: Callable[[*_Args], _T],
        *args: *_Args,
    ) -> asyncio.Future[_T]:
        """Call at once."""
        done: asyncio.Future[_T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits it
            done.set_exception(error)
        return done

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        if not self._ready:
            if not self._scheduled:
                raise StuckError("nothing is scheduled any more")
            self._now = max(self._now, self._scheduled[0].when())
            if self._now > self.limit_seconds:
                raise StuckError(f"it is not done after {self.limit_seconds} s")
        while self._scheduled and self._scheduled[0].when() <= self._now:
            self._ready.append(heapq.heappop(self._scheduled))
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            process = handle._context.get(_process)  # type: ignore[attr-defined] # noqa: SLF001
            if process is not None and process.frozen:
                process.held.append(handle)
            else:
                handle._run()  # noqa: SLF001

    def _process_events(self, event_list: Any) -> None:  # noqa: ANN401
        raise NotImplementedError

    def _write_to_self(self) -> None:
        """Wake nobody: no other thread is about."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is: it is passed over when its time comes."""

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "destroyed" not in context["message"]:
            self.faults.append(f"{context['message']}: {context.get('exception')!r}")

    @staticmethod
    def _make_task(
        loop: asyncio.AbstractEventLoop,
        coroutine: Any,  # noqa: ANN401 - as in the protocol
        *,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, context=context)
        process = _process.get() if context is None else context.get(_process)
        if process is not None:
            process.tasks.append(task)
        return task


def run(
    work: Callable[[SimulatedLoop], Coroutine[Any, Any, _T]],
    clean_up: Callable[[], Coroutine[Any, Any, None]],
    *,
    limit_seconds: float,
) -> _T:
    """Run a coroutine to its end, and then, whatever became of it, `clean_up`.

    Raises:
        StuckError: it waits for what cannot happen, or is not done at the limit of virtual time.
    """
    loop = SimulatedLoop(limit_seconds)
    working = loop.create_task(work(loop))
    try:
        return loop.run_until_complete(working)
    finally:
        loop.limit_seconds = float("inf")
        loop.run_until_complete(clean_up())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.wait([working]))
        loop.run_until_complete(asyncio.sleep(1))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
