"""The consistency oracle: after a storm of deciders, retries and kills, a replay finds every decision still right.

The deciders let students subscribe to courses of few seats. Each decision stands on a query of several items and is
recorded with it and with the `after` it was decided on; `Ledger` judges all of them again.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path

import grpc
import grpc.aio
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import Client, Refusal, connect, event, parsed, query
from tests.e2e.ledger import Ledger, append_request
from tests.e2e.load import until
from tests.server_process import run_server

_COURSES = 30
_SEATS = 6
_COURSES_PER_STUDENT = 4
_STUDENTS = 60
_DECIDERS = 16
_KILLS = 4


async def test_a_replay_confirms_every_decision_of_a_storm_with_kills(tmp_path: Path, rng: random.Random) -> None:
    ledger = Ledger()
    for round_number in range(_KILLS + 1):
        async with run_server(tmp_path, "--tail-bytes", str(1 << 20)) as server, connect(server.address) as client:
            await ledger.settle(client)
            if round_number == _KILLS:
                break
            answered = len(ledger.acknowledged) + rng.randint(50, 150)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(_DECIDERS):
                    tasks.create_task(_decide(client, ledger, rng))
                await until(lambda: len(ledger.acknowledged) >= answered, "number of decisions")  # noqa: B023
                await server.kill()
    conflicts = sum(answer.reason == "CONDITION_FAILED" for _, answer in ledger.refused)
    assert conflicts > _KILLS, "the deciders did not meet"
    _check_rules(ledger)


def _check_rules(ledger: Ledger) -> None:
    """The rules that the deciders keep only hold if no decision was recorded on a stale read."""
    subscribed = [recorded.event for recorded in ledger.history.events if recorded.event.event_type == "Subscribed"]
    left = [recorded.event for recorded in ledger.history.events if recorded.event.event_type == "Left"]
    for tag, most in (("course", _SEATS), ("student", _COURSES_PER_STUDENT)):
        taken = Counter(name for one in subscribed for name in one.tags if name.startswith(tag))
        taken.subtract(name for one in left for name in one.tags if name.startswith(tag))
        assert all(0 <= count <= most for count in taken.values()), taken
    assert len(subscribed) > _COURSES


async def _decide(client: Client, ledger: Ledger, rng: random.Random) -> None:
    """Decide again and again, until the server is gone."""
    while True:
        course, student = f"course:{rng.randrange(_COURSES)}", f"student:{rng.randrange(_STUDENTS)}"
        relevant = query((["Subscribed", "Left"], [course]), (["Subscribed", "Left"], [student]))
        try:
            frames, head = await client.read(pb.ReadRequest(query=relevant))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return
            raise
        condition = event_pb2.AppendCondition(fail_if_events_match=relevant, after=head)
        request = append_request(
            [_decision([recorded.event for recorded in parsed(frames)], course, student)], [condition]
        )
        answer = await client.append(request)
        ledger.note(request, answer)
        if isinstance(answer, Refusal) and answer.code is grpc.StatusCode.UNAVAILABLE:
            return


def _decision(past: list[event_pb2.Event], course: str, student: str) -> event_pb2.Event:
    def taken(*tags: str) -> int:
        return sum(1 if one.event_type == "Subscribed" else -1 for one in past if set(tags) <= set(one.tags))

    if taken(course, student):
        return event("Left", course, student)
    if taken(course) < _SEATS and taken(student) < _COURSES_PER_STUDENT:
        return event("Subscribed", course, student)
    return event("Refused", course, student)
