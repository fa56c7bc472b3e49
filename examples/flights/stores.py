"""Where the demo's server keeps its events: in a folder, or in DynamoDB and S3 as they run on this machine."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.local_aws.bucket import create_bucket
from examples.local_aws.components import dynamodb_local, seaweedfs

JANUARY_FLIGHTS = 27_004
"""The first of the csv: DynamoDB Local is a stand-in of one thread, on which the whole year would take minutes."""
_BUCKET = "flights"


@dataclass(frozen=True, slots=True)
class Store:
    """What the server is started with, and what may be said of it."""

    title: str
    recorded: str
    """What an acknowledgement of this store means."""
    notes: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    """Of the embedded store."""

    def stored(self, events: int) -> str:
        """Tell where the events are."""
        if self.folder is None:
            return "in the tables kudurru-log, -events and -tags, which end with the demo"
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        return f"in {size / 1e6:,.0f} MB, {size / events:,.0f} bytes an event with its index"


def embedded(folder: Path) -> Store:
    """Return a store in a folder."""
    return Store(
        "an empty embedded store",
        "on disk before they were acknowledged",
        arguments=("--data-dir", str(folder)),
        folder=folder,
    )


@contextmanager
def dynamodb() -> Iterator[Store]:
    """Run DynamoDB Local and SeaweedFS until the end of the block, with an empty bucket.

    Raises:
        ComponentError: one of them cannot be fetched, or does not start.
    """
    with dynamodb_local() as tables, seaweedfs() as bucket:
        create_bucket(bucket, _BUCKET)
        yield Store(
            "empty tables and an empty bucket",
            "in the log's table before they were acknowledged",
            notes=(
                ("tables", f"Amazon DynamoDB Local at {tables.endpoint}, in memory"),
                ("bucket", f"SeaweedFS at {bucket.endpoint}"),
                ("only", "January: DynamoDB Local is a small stand-in, and the year takes minutes"),
            ),
            environment={
                **tables.environment,
                **bucket.environment,
                "KUDURRU_STORAGE": "dynamodb",
                "KUDURRU_DYNAMODB_CREATE_TABLES": "true",
                "KUDURRU_S3_BUCKET": _BUCKET,
            },
        )
