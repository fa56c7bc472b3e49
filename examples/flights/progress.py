"""Progress of the import and of the projector: two bars on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

_LINES = 10


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:>9,.0f}/s", style="cyan")


class Show:
    """Shows how far the import and the projector are. Use `showing`."""

    def __init__(self, console: Console, bars: Progress, total: int) -> None:
        self._console = console
        self._bars = bars
        self._total = total
        self._import = bars.add_task("recorded", total=total, day="")
        self._fold = bars.add_task("folded", total=total, day="")
        self._recorded = self._folded = self._lines = 0
        self._started = time.perf_counter()

    def recorded(self, events: int, day: str) -> None:
        """Tell that so many more events are durable, the last of them of this day."""
        self._recorded += events
        self._bars.update(self._import, completed=self._recorded, day=day)
        if not self._console.is_terminal and self._recorded * _LINES >= self._total * (self._lines + 1):
            self._lines = self._recorded * _LINES // self._total
            rate = self._recorded / (time.perf_counter() - self._started)
            self._console.print(
                f"  {day}  {self._recorded:>9,} events recorded  {rate:>7,.0f}/s  {self._folded:>9,} folded"
            )

    def folded(self, position: int) -> None:
        """Tell how far the projector is."""
        self._folded = position
        behind = self._recorded - position
        self._bars.update(self._fold, completed=position, day=f"{behind:,} behind" if behind > 0 else "caught up")


@contextmanager
def showing(console: Console, total: int) -> Iterator[Show]:
    """Show the progress towards a number of events."""
    columns = (
        TextColumn("  {task.description:<8}"),
        BarColumn(bar_width=32),
        TextColumn("{task.completed:>9,} events"),
        _RateColumn(),
        TextColumn("{task.fields[day]:>14}", style="dim"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield Show(console, bars, total)
