"""What clients asked for and what they were told, and the check of a whole store against it.

Every append carries its own conditions in the metadata of its first event, so a history can be replayed: each decision
is judged again on exactly the events that precede it.
"""

import base64
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

import grpc
from kudurru._proto import event_pb2
from kudurru._proto import event_store_service_pb2 as pb

from tests.e2e.client import UNKNOWN_OUTCOMES, Client, Refusal, parsed

_CONDITIONS = "conditions"
_TICKS_DIGITS = 19


def append_request(
    events: Sequence[event_pb2.Event], conditions: Sequence[event_pb2.AppendCondition] = ()
) -> pb.AppendRequest:
    """Make an append whose first event says on which conditions it was recorded."""
    if conditions:
        encoded = pb.AppendRequest(conditions=conditions).SerializeToString()
        events[0].metadata[_CONDITIONS] = base64.b64encode(encoded).decode()
    return pb.AppendRequest(events=events, conditions=conditions)


class Ledger:
    """The account of one store, through any number of servers and kills."""

    def __init__(self) -> None:
        self.acknowledged: list[tuple[pb.AppendRequest, pb.AppendResponse]] = []
        self.refused: list[tuple[pb.AppendRequest, Refusal]] = []
        self.unanswered: list[pb.AppendRequest] = []
        self.answers: list[pb.AppendResponse | Refusal] = []
        self.frames: list[bytes] = []
        """The store as it was read last, an encoded event each."""
        self.history = History()
        self._checked = 0

    def note(self, request: pb.AppendRequest, answer: pb.AppendResponse | Refusal) -> None:
        """Take down what became of an append."""
        self.answers.append(answer)
        if isinstance(answer, pb.AppendResponse):
            self.acknowledged.append((request, answer))
        elif answer.code in UNKNOWN_OUTCOMES:
            self.unanswered.append(request)
        else:
            self.refused.append((request, answer))

    async def settle(self, client: Client) -> None:
        """Check the store, retry what was not answered, and check that the answers to the retries are true."""
        await self.check(client)
        unanswered, self.unanswered = self.unanswered, []
        for request in unanswered:
            recorded = self.history.position_of(request) is not None
            answer = await client.append(request)
            if isinstance(answer, pb.AppendResponse):
                assert answer.already_committed == recorded, f"recorded: {recorded}, but the retry says {answer}"
            else:
                assert not recorded, f"it is recorded, but the retry says {answer}"
                assert answer.code is grpc.StatusCode.FAILED_PRECONDITION, answer
            self.note(request, answer)
        await self.check(client)

    async def check(self, client: Client) -> None:
        """Read the whole store and hold it against everything that clients were told."""
        frames, head = await client.read()
        assert frames[: len(self.frames)] == self.frames, "events that were read before have changed or are gone"
        self.history.extend(frames[len(self.frames) :])
        self.frames = frames
        assert head == self.history.head
        for request, response in self.acknowledged[self._checked :]:
            self._check_acknowledged(request, response)
        self._checked = len(self.acknowledged)
        for request, answer in self.refused:
            assert self.history.position_of(request) is None, f"refused with {answer}, but recorded"
        for request in self.unanswered:
            self.history.position_of(request)
        self._check_phantoms()

    def _check_acknowledged(self, request: pb.AppendRequest, response: pb.AppendResponse) -> None:
        first = self.history.position_of(request)
        assert first is not None, f"acknowledged at {response.last_position}, but not there"
        recorded = self.history.events[first - 1 : first - 1 + len(request.events)]
        assert [event.sortable_unique_id for event in recorded] == list(response.sortable_unique_ids)
        assert [event.event.event_id for event in recorded] == list(response.event_ids)
        assert recorded[-1].position == response.last_position

    def _check_phantoms(self) -> None:
        asked = [request for request, _ in self.acknowledged] + self.unanswered
        known = {event.event_id for request in asked for event in request.events}
        phantoms = self.history.positions.keys() - known
        assert not phantoms, f"{len(phantoms)} events are there that nobody appended"


class History:
    """The events of a store, in order, and where each id, tag and type occurs."""

    def __init__(self) -> None:
        self.events: list[event_pb2.RecordedEvent] = []
        self.positions: dict[str, int] = {}
        self._tags: defaultdict[str, list[int]] = defaultdict(list)
        self._types: defaultdict[str, list[int]] = defaultdict(list)

    @property
    def head(self) -> str:
        """The id of the last event."""
        return self.events[-1].sortable_unique_id if self.events else ""

    def extend(self, frames: Sequence[bytes]) -> None:
        """Take in the next events: dense positions, rising ids, ids of events only once, every decision holds."""
        new = parsed(frames)
        for recorded in new:
            assert recorded.position == len(self.events) + 1, "positions have a hole"
            assert recorded.sortable_unique_id > self.head, "ids do not rise"
            assert int(recorded.sortable_unique_id[_TICKS_DIGITS:]) == recorded.position
            assert recorded.event.event_id not in self.positions, f"{recorded.event.event_id} is recorded twice"
            self.events.append(recorded)
            self.positions[recorded.event.event_id] = recorded.position
            self._types[recorded.event.event_type].append(recorded.position)
            for tag in recorded.event.tags:
                self._tags[tag].append(recorded.position)
        for recorded in new:
            self._check_decision(recorded)

    def position_of(self, request: pb.AppendRequest) -> int | None:
        """Return where an append is recorded, whole, in order and unchanged; None if nothing of it is."""
        found = [self.positions.get(event.event_id) for event in request.events]
        first = found[0]
        if first is None:
            assert not any(found), f"the beginning of an append is missing: {found}"
            return None
        assert found == list(range(first, first + len(found))), f"an append is torn: {found}"
        recorded = [event.event for event in self.events[first - 1 : first - 1 + len(found)]]
        assert recorded == list(request.events), f"the append at {first} has changed"
        return first

    def _check_decision(self, recorded: event_pb2.RecordedEvent) -> None:
        encoded = recorded.event.metadata.get(_CONDITIONS)
        if encoded is None:
            return
        for condition in pb.AppendRequest.FromString(base64.b64decode(encoded)).conditions:
            after = int(condition.after[_TICKS_DIGITS:] or 0)
            for position in self.matching(condition.fail_if_events_match, after, recorded.position - 1):
                raise AssertionError(
                    f"position {recorded.position} was decided on nothing matching after {after}, yet {position} does"
                )

    def matching(self, query: event_pb2.Query, after: int, until: int) -> Iterator[int]:
        """Yield the positions in (after, until] that match, item by item."""
        if not query.items:
            yield from range(after + 1, until + 1)
        for item in query.items:
            lists = [self._tags.get(tag, []) for tag in item.tags] or [
                sorted(position for event_type in set(item.event_types) for position in self._types.get(event_type, []))
            ]
            candidates = min(lists, key=len)
            for position in candidates[bisect_right(candidates, after) : bisect_right(candidates, until)]:
                event = self.events[position - 1].event
                if set(item.tags) <= set(event.tags) and (not item.event_types or event.event_type in item.event_types):
                    yield position
