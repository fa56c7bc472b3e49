"""What `kudurru append` does: one event, lines from standard input, or a file with a progress bar."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from kudurru._client import EventStore
from kudurru._import import LineCutter, append_once, file_chunks, stdin_chunks
from kudurru._model import Event
from kudurru._query import Condition
from kudurru._show import STDERR, Output


async def append_one(store: EventStore, event: Event, condition: Condition | None) -> None:
    """Append an event and write where it was recorded."""
    appended = await store.append(event, condition=condition)
    Output().fields(
        {
            "event_id": appended.event_ids[0],
            "sortable_unique_id": appended.head,
            "position": appended.last_position,
            "already_committed": appended.already_committed,
        }
    )


async def append_stdin(store: EventStore) -> None:
    """Append the lines of standard input as they arrive and write where they were recorded."""
    output = Output()
    cutter = LineCutter()

    async def append_batches(chunk: bytes) -> None:
        for batch in cutter.feed(chunk):
            written, _ = await append_once(store, batch)
            for event_id, cursor, position in written:
                output.fields({"event_id": event_id, "sortable_unique_id": cursor, "position": position})
            output.flush()

    async for chunk in stdin_chunks():
        await append_batches(chunk)
    await append_batches(cutter.LAST)


@dataclass(slots=True)
class _Tally:
    appended: int = 0
    before: int = 0
    began: float = field(default_factory=time.monotonic)

    def count(self, appended: int, before: int) -> None:
        self.appended += appended
        self.before += before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        return (self.appended + self.before) / max(self.seconds, 1e-6)


async def append_file(store: EventStore, path: Path, size_bytes: int) -> None:
    """Append the lines of a file and say on standard error how it goes."""
    tally = _Tally()
    cutter = LineCutter()
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=STDERR, disable=not STDERR.is_terminal) as progress:
        bar = progress.add_task(path.name, total=size_bytes)
        for chunk in file_chunks(path, then=cutter.LAST):
            for batch in cutter.feed(chunk):
                written, before = await append_once(store, batch)
                tally.count(len(written), before)
            progress.update(bar, advance=len(chunk), description=f"{path.name}  {tally.rate:,.0f} events/s")
    before_too = f"; {tally.before:,} were recorded before" if tally.before else ""
    STDERR.print(
        f"appended {tally.appended:,} events in {tally.seconds:.1f} s ({tally.rate:,.0f}/s){before_too}",
        soft_wrap=True,
    )
