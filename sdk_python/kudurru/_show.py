"""What the command line writes: lines for people on a terminal, JSON lines into a pipe or a file."""

import json
import sys

from rich.console import Console
from rich.text import Text

from kudurru._jsonl import event_fields
from kudurru._model import RecordedEvent

STDERR = Console(stderr=True, highlight=False)
_MAX_BYTES_SHOWN = 2000


class Output:
    """Standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False) if sys.stdout.isatty() else None

    def event(self, event: RecordedEvent) -> None:
        """Write one event."""
        if self._console is None:
            self.fields(event_fields(event))
            return
        line = Text.assemble(
            (f"{event.position:>8}  ", "dim"),
            (event.recorded_at.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3], "dim"),
            "  ",
            (event.event_type, "bold cyan"),
            *((f"  {tag}", "green") for tag in event.tags),
        )
        self._console.print(line.append(f"  {_data(event)}"), soft_wrap=True)

    def fields(self, fields: dict[str, object]) -> None:
        """Write a JSON object."""
        line = json.dumps(fields, ensure_ascii=False)
        if self._console is None:
            sys.stdout.write(line + "\n")
        else:
            self._console.print_json(line, indent=None)

    def text(self, text: str, fields: dict[str, object]) -> None:
        """Write the text for people, the fields for programs."""
        if self._console is None:
            self.fields(fields)
        else:
            self._console.print(text, markup=False, soft_wrap=True)

    def flush(self) -> None:
        """Pass on what was written, which matters to who follows."""
        sys.stdout.flush()


def _data(event: RecordedEvent) -> str:
    fields = event_fields(event)
    if not event.data:
        return ""
    if "data" not in fields or len(event.data) > _MAX_BYTES_SHOWN:
        return f"({len(event.data):,} bytes {event.content_type})"
    return json.dumps(fields["data"], ensure_ascii=False)
