"""What clients asked and were told: the material of the checker."""

from dataclasses import dataclass, field

from kudurru_server.engine.judge import Outcome

from tests.reference import Condition, Fact, Query


@dataclass(eq=False)
class Attempt:
    """One attempt at an append; `outcome` None: unknown."""

    node: str
    began: float
    facts: tuple[Fact, ...]
    conditions: tuple[Condition, ...]
    outcome: Outcome | None = None
    ended: float = float("inf")

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(fact.event_id for fact in self.facts)


@dataclass(eq=False)
class ReadDone:
    """A read that came to its end."""

    node: str
    began: float
    floor: int
    """The last position that this node had acknowledged or shown before."""
    query: Query
    after: str
    until: str
    backwards: bool
    limit: int
    frames: bytes
    head: str


@dataclass(eq=False)
class Stream:
    """One subscription, as far as its subscriber took it."""

    node: str
    query: Query
    after: str
    from_now: bool
    frames: list[bytes] = field(default_factory=list)
    checkpoints: list[tuple[int, str, str, int]] = field(default_factory=list)
    """Frames before it, its cursor, the head, the lag."""


@dataclass(eq=False)
class Found:
    """An event that was asked for by its id; `frame` None: there was none."""

    node: str
    event_id: str
    floor: int
    frame: bytes | None


@dataclass(eq=False)
class Summary:
    """What was said of a tag, and the tags that were listed."""

    floor: int
    tag: str
    told: tuple[str, str, int | None] | None
    listed: list[str]


@dataclass(eq=False)
class History:
    """Everything that clients did."""

    attempts: list[Attempt] = field(default_factory=list)
    reads: list[ReadDone] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Answers that no client should ever get."""
