"""A projector in a process of its own: it folds everything that is recorded, from the first event on and then live.

`python -m examples.flights.projector HOST:PORT` writes its position some times a second, and its state when its input
ends. State and position belong together: a projector that saves both goes on behind the position after a restart.
"""

import asyncio
import sys

import kudurru
from kudurru import Subscription

from examples.flights.year import Year

_REPORT_SECONDS = 0.02


async def project(target: str) -> Year:
    """Fold the store until standard input ends."""
    year = Year()
    async with kudurru.connect(target) as store, store.subscribe() as subscription, asyncio.TaskGroup() as tasks:
        report = tasks.create_task(_report_position(subscription))
        tasks.create_task(_close_at_end_of_input(subscription))
        async for event in subscription:
            year.apply(event)
        report.cancel()
    return year


async def _report_position(subscription: Subscription) -> None:
    while True:
        _write_line(str(subscription.position))
        await asyncio.sleep(_REPORT_SECONDS)


async def _close_at_end_of_input(subscription: Subscription) -> None:
    await asyncio.to_thread(sys.stdin.read)
    await subscription.aclose()


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _write_line(asyncio.run(project(sys.argv[1])).to_json())
