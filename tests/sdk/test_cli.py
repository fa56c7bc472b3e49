"""The command line, run as its users run it: as a process with pipes, files and a terminal."""

import asyncio
import json
import os
import pty
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from kudurru import Event

from .fake_server import FakeServer, cursor, refused

Start = Callable[..., Awaitable[Process]]


@pytest.fixture
def start(server: FakeServer) -> Start:
    """Start a command against the server."""

    async def start(*arguments: str, stdout: int = PIPE, stdin: int = PIPE) -> Process:
        environment = os.environ | {"KUDURRU_TARGET": server.target, "NO_COLOR": "1", "COLUMNS": "100"}
        command = ["env", "--default-signal=INT", sys.executable, "-m", "kudurru"]  # tests in the background ignore it
        return await asyncio.create_subprocess_exec(
            *command, *arguments, env=environment, stdin=stdin, stdout=stdout, stderr=PIPE
        )

    return start


async def finish(process: Process, stdin: str = "") -> tuple[int, list[Any], str]:
    """Return the exit code, the JSON lines and what was said on standard error."""
    async with asyncio.timeout(30):
        out, err = await process.communicate(stdin.encode() if process.stdin else None)
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


async def test_an_event_is_appended_by_options(server: FakeServer, start: Start) -> None:
    code, lines, err = await finish(
        await start("append", "--type", "A", "--tag", "a:1", "--tag", "b", "--data", '{"n": 1}', "--metadata", "k=v")
    )
    assert (code, err) == (0, "")
    event = server.recorded[0].event
    assert (event.event_type, list(event.tags), event.data, event.content_type, dict(event.metadata)) == (
        "A",
        ["a:1", "b"],
        b'{"n":1}',
        "application/json",
        {"k": "v"},
    )
    assert lines == [
        {"event_id": event.event_id, "sortable_unique_id": cursor(1), "position": 1, "already_committed": False}
    ]


async def test_a_conflict_is_one_line_with_its_reason(server: FakeServer, start: Start) -> None:
    server.record(Event("CourseDefined", tags=["course:c1"]))
    once = ("append", "--type", "CourseDefined", "--if-none", "CourseDefined/course:c1")
    code, lines, err = await finish(await start(*once))
    assert (code, lines) == (1, [])
    assert err == "kudurru: CONDITION_FAILED: condition_failed\n"
    code, _, _ = await finish(await start(*once, "--after", cursor(1)))
    assert code == 0


async def test_what_read_writes_append_takes(server: FakeServer, start: Start) -> None:
    server.record(
        Event.json("A", {"n": [1, "ä"]}, tags=["a:1"], metadata={"k": "v"}),
        Event("B", b"\x00\xff", content_type="x/y"),
        Event("C", b'{ "spaced" : 1 }', content_type="application/json"),
        Event("D"),
    )
    originals = [event.event for event in server.recorded]
    code, lines, _ = await finish(await start("read"))
    assert code == 0
    assert [line["position"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["data"] == {"n": [1, "ä"]}
    assert lines[0]["recorded_at"] == "2023-11-14T22:13:20+00:00"
    server.forget()
    copied = "".join(json.dumps(line) + "\n" for line in lines)
    code, written, err = await finish(await start("append"), copied)
    assert (code, err) == (0, "")
    assert [line["position"] for line in written] == [1, 2, 3, 4]
    assert [event.event for event in server.recorded] == originals


async def test_a_file_is_appended_in_order_and_in_batches(server: FakeServer, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"event_type": "A", "data": n}) + "\n" for n in range(2500)))
    code, lines, err = await finish(await start("append", "--from", str(path)))
    assert (code, lines) == (0, [])
    assert err.startswith("appended 2,500 events in ")
    assert [json.loads(event.event.data) for event in server.recorded] == list(range(2500))
    assert max(len(one.events) for message in server.messages for one in message.appends) == 1000


async def test_a_file_that_has_grown_is_appended_once(server: FakeServer, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [json.dumps({"event_type": "A", "event_id": Event("A").event_id}) for _ in range(5)]
    said = []
    for text in ("\n".join(lines[:3]), "\n".join(lines[:3]) + "\n", "\n".join(lines)):
        path.write_text(text)
        code, _, err = await finish(await start("append", "--from", str(path)))
        assert code == 0, err
        said.append(err.split(" events")[0] + err.partition(";")[2].rstrip())
    assert said == ["appended 3", "appended 0 3 were recorded before", "appended 2 3 were recorded before"]
    assert [json.loads(line)["event_id"] for line in lines] == server.ids


async def test_an_id_that_is_recorded_with_other_content_is_an_error(server: FakeServer, start: Start) -> None:
    event = Event("A")
    server.record(event)
    line = json.dumps({"event_type": "B", "event_id": event.event_id})
    code, _, err = await finish(await start("append"), line)
    assert code == 1
    assert "EVENT_ID_EXISTS" in err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"event_type": "A", "tag": ["a"]}', "unknown field 'tag'"),
        ('{"tags": []}', "event_type is missing"),
        ('{"event_type": "A", "tags": "a"}', "tags must be"),
        ('{"event_type": "A", "metadata": {"k": 1}}', "metadata must be"),
        ('{"event_type": "A", "data_base64": "?"}', "not base64"),
    ],
)
async def test_a_line_that_is_no_event_is_named(server: FakeServer, start: Start, line: str, complaint: str) -> None:
    code, _, err = await finish(await start("append"), '{"event_type": "A"}\n\n' + line)
    assert code == 1
    assert err.startswith("kudurru: line 3: ")
    assert complaint in err
    assert len(err.splitlines()) == 1
    assert len(server.recorded) <= 1


async def test_nothing_to_append_is_no_reason_to_wait(server: FakeServer, start: Start) -> None:
    code, lines, err = await finish(await start("append", stdin=DEVNULL))
    assert (code, lines, err) == (0, [], "")
    assert not server.recorded


async def test_lines_are_appended_as_they_come(server: FakeServer, start: Start) -> None:
    process = await start("append")
    assert process.stdin is not None
    assert process.stdout is not None
    for n in range(3):
        process.stdin.write(b'{"event_type": "A"}\n')
        assert json.loads(await process.stdout.readline())["position"] == n + 1
    assert len(server.recorded) == 3
    code, _, _ = await finish(process)
    assert code == 0


async def test_read_keeps_its_bounds(server: FakeServer, start: Start) -> None:
    server.record(*(Event("AB"[n % 2], tags=["even" if n % 2 else "odd"]) for n in range(9)))
    options = ["--type", "A", "--type", "B", "--tag", "odd", "--after", cursor(1), "--until", cursor(8)]
    code, lines, _ = await finish(await start("read", *options, "--backwards", "--limit", "2"))
    assert (code, [line["position"] for line in lines]) == (0, [7, 5])
    await finish(await start("read", "--since", "2026-01-01T00:00:00+00:00"))
    assert server.reads[1].after == "063902822400000000000000000000"


async def test_subscribe_follows_until_it_is_interrupted(server: FakeServer, start: Start) -> None:
    server.record(Event("A"))
    process = await start("subscribe")
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["position"] == 1
    server.record(Event("B"))
    assert json.loads(await process.stdout.readline())["position"] == 2
    process.send_signal(signal.SIGINT)
    assert await finish(process) == (130, [], "")


async def test_a_closed_pipe_ends_quietly(server: FakeServer, start: Start) -> None:
    server.record(*(Event("A", bytes(1000)) for _ in range(200)))
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = await start("read", stdout=write_end)
    os.close(write_end)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_a_terminal_gets_lines_for_people(server: FakeServer, start: Start) -> None:
    server.record(Event.json("CourseDefined", {"seats": 30}, tags=["course:c1"]))
    ours, theirs = pty.openpty()
    process = await start("read", stdout=theirs)
    os.close(theirs)
    await process.wait()
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    for part in ("CourseDefined", "course:c1", '{"seats": 30}'):
        assert part in shown
    assert "sortable_unique_id" not in shown


async def test_head_get_and_tags_answer(server: FakeServer, start: Start) -> None:
    server.record(Event("A", tags=["course:c1"]), Event("B", tags=["course:c1", "x"]))
    answers = [
        (("head",), [{"sortable_unique_id": cursor(2), "position": 2}]),
        (("tags",), [{"tag": "course:c1"}, {"tag": "x"}]),
        (("tags", "--group", "course"), [{"tag": "course:c1"}]),
    ]
    for arguments, expected in answers:
        assert await finish(await start(*arguments)) == (0, expected, "")
    _, lines, _ = await finish(await start("tags", "course:c1", "--count"))
    assert (lines[0]["count"], lines[0]["last_sortable_unique_id"]) == (2, cursor(2))
    _, lines, _ = await finish(await start("get", server.ids[1]))
    assert lines[0]["event_type"] == "B"
    code, _, err = await finish(await start("get", "nobody"))
    assert (code, err) == (1, "kudurru: EVENT_NOT_FOUND: event_not_found\n")


async def test_no_server_is_one_line(server: FakeServer, start: Start) -> None:
    await server.stop()
    code, _, err = await finish(await start("head", "--timeout", "0.2"))
    assert code == 1
    assert err.startswith("kudurru: ")
    assert len(err.splitlines()) == 1


async def test_an_error_of_the_store_is_one_line(server: FakeServer, start: Start) -> None:
    server.on_head.append(refused(grpc.StatusCode.INTERNAL, "INTERNAL"))
    assert await finish(await start("head")) == (1, [], "kudurru: INTERNAL: internal\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("append", "--tag", "a"),
        ("append", "--type", "A", "--data", "{"),
        ("append", "--type", "A", "--metadata", "k"),
        ("append", "--type", "A", "--from", __file__),
        ("read", "--since", "yesterday"),
        ("read", "--since", "1h", "--after", cursor(1)),
        ("subscribe", "--from-now", "--after", cursor(1)),
        ("unknown",),
    ],
)
async def test_wrong_usage_exits_with_2(start: Start, arguments: tuple[str, ...]) -> None:
    code, lines, err = await finish(await start(*arguments))
    assert (code, lines) == (2, [])
    assert "Usage" in err


async def test_a_missing_extra_is_explained(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(name='typer')")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kudurru", "head", env=os.environ | {"PYTHONPATH": str(tmp_path)}, stderr=PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert b"pip install 'kudurru[cli]'" in err
