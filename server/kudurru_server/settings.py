"""The settings: one documented field for each variable `KUDURRU_…`, and for the flag of the same name."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kudurru_server.model import Limits

_LIMITS = Limits()


class Settings(BaseSettings):
    """How a server runs."""

    model_config = SettingsConfigDict(env_prefix="KUDURRU_", extra="forbid")

    listen: str = Field(
        "127.0.0.1:50051",
        description="Where to listen: HOST:PORT (port 0 picks a free one), [IPv6]:PORT or unix:PATH.",
    )
    storage: Literal["sqlite", "dynamodb"] = Field(
        "sqlite",
        description="What stores the events: sqlite, embedded in the data dir, or dynamodb, shared by many nodes.",
    )
    advertise: str | None = Field(
        None,
        pattern=r"^([^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$",
        description="HOST:PORT where other nodes of the store reach this one (port 0: the one it listens on); "
        "given, it may take their appends when several append at once.",
    )
    data_dir: Path = Field(
        Path("kudurru-data"),
        description="Folder of the embedded store; made if it is missing, used by one server only.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level to log.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How to log: auto is console on a terminal and JSON lines elsewhere."
    )
    shutdown_grace_seconds: float = Field(
        10.0, ge=0, description="After SIGTERM, how long running calls may take before they are cut."
    )
    metrics_listen: str | None = Field(
        None, description="Where to serve metrics to Prometheus: HOST:PORT, path /metrics; unset: nowhere."
    )
    tail_bytes: int = Field(
        64 << 20, ge=1 << 20, description="Memory for the newest events, from which live subscribers are served."
    )
    max_pending_bytes: int = Field(
        64 << 20, ge=1 << 20, description="Events waiting to be written; above it appends are RESOURCE_EXHAUSTED."
    )
    max_unapplied_bytes: int = Field(
        256 << 20,
        ge=64 << 20,
        description="Memory for events not yet in the index; above it appends are RESOURCE_EXHAUSTED.",
    )
    dynamodb_table_prefix: str = Field(
        "kudurru-", max_length=200, pattern=r"[A-Za-z0-9_.-]*", description="How the names of the tables begin."
    )
    dynamodb_create_tables: bool = Field(
        default=False, description="Create missing tables at the start; else they are only verified."
    )
    dynamodb_endpoint_url: str | None = Field(
        None,
        description="Where DynamoDB is, if not where AWS's own settings say (AWS_ENDPOINT_URL_DYNAMODB, AWS_REGION).",
    )
    dynamodb_write_shard_count: int = Field(
        4, ge=1, le=256, description="Partitions of the index of all events; may be raised at any time."
    )
    dynamodb_stripes: int = Field(
        4, ge=1, le=64, description="Partitions of the log; fixed when the store is made, ignored afterwards."
    )
    dynamodb_index_writes: Literal["transactions", "batches"] = Field(
        "transactions", description="How rows are derived from the log: batches cost half as many write units."
    )
    dynamodb_history: Literal["auto", "index"] = Field(
        "auto", description="Where history is read: auto prefers the log, which is batched, to the index of all events."
    )
    dynamodb_log_retention_hours: float | None = Field(
        None,
        ge=24,
        description="Older log entries lose their bodies, once rows hold their events; unset: kept for ever.",
    )
    dynamodb_poll_busy_seconds: float = Field(
        0.025, gt=0, le=60, description="Pause between looks for other nodes' events while there are some."
    )
    dynamodb_poll_idle_seconds: float = Field(
        0.1, gt=0, le=60, description="Longest pause between looks for other nodes' events."
    )
    dynamodb_apply_delay_seconds: float = Field(
        0.2, ge=0, le=60, description="How long derived rows wait for others to be written with."
    )
    dynamodb_lease_seconds: float = Field(
        3.0, ge=0.1, le=60, description="A node that should write rows, or leads, and does not for so long is replaced."
    )
    dynamodb_concurrency: int = Field(64, ge=1, le=1024, description="Calls to DynamoDB under way at once.")
    dynamodb_writes_at_once: int = Field(8, ge=1, le=256, description="Of these, writes of derived rows.")
    dynamodb_connect_timeout_seconds: float = Field(1.0, gt=0, le=60, description="Time to connect.")
    dynamodb_read_timeout_seconds: float = Field(2.0, gt=0, le=60, description="Time to wait for an answer.")
    dynamodb_patience_seconds: float = Field(
        10.0, gt=0, le=600, description="How long a call is tried again before it fails as UNAVAILABLE."
    )
    s3_bucket: str | None = Field(
        None, description="Bucket for large payloads; without one they are limited to what DynamoDB holds."
    )
    s3_key_prefix: str = Field("", description="How keys in the bucket begin.")
    s3_endpoint_url: str | None = Field(
        None, description="Where S3 is, if not where AWS's own settings say (AWS_ENDPOINT_URL_S3, AWS_REGION)."
    )
    s3_payload_threshold_bytes: int = Field(
        256 << 10, ge=1024, le=256 << 10, description="Payloads above it are kept in the bucket."
    )
    s3_concurrency: int = Field(32, ge=1, le=1024, description="Calls to S3 under way at once.")
    max_event_type_bytes: int = Field(_LIMITS.event_type_bytes, ge=1, le=1024, description="Longest event type.")
    max_tag_bytes: int = Field(_LIMITS.tag_bytes, ge=1, le=1024, description="Longest tag.")
    max_tags_per_event: int = Field(_LIMITS.tags_per_event, ge=1, le=256, description="Most tags of an event.")
    max_metadata_pairs: int = Field(
        _LIMITS.metadata_pairs, ge=0, le=1024, description="Most metadata pairs of an event."
    )
    max_metadata_bytes: int = Field(_LIMITS.metadata_bytes, ge=0, le=1 << 18, description="Most metadata of an event.")
    max_data_bytes: int = Field(_LIMITS.data_bytes, ge=0, le=2 << 20, description="Largest payload of an event.")
    max_events_per_append: int = Field(
        _LIMITS.events_per_append, ge=1, le=16384, description="Most events of an append."
    )
    max_append_bytes: int = Field(_LIMITS.append_bytes, ge=1, le=16 << 20, description="Largest append.")
    max_conditions_per_append: int = Field(
        _LIMITS.conditions_per_append, ge=1, le=256, description="Most conditions of an append."
    )
    max_query_items: int = Field(_LIMITS.query_items, ge=1, le=1024, description="Most items of a query.")
    max_appends_per_message: int = Field(
        _LIMITS.appends_per_message, ge=1, le=16384, description="Most appends in an AppendStream message."
    )
    max_message_bytes: int = Field(
        _LIMITS.message_bytes, ge=1, le=16 << 20, description="Most bytes of events in an AppendStream message."
    )

    def _data_bytes(self) -> int:
        if self.storage == "dynamodb" and self.s3_bucket is None:
            return min(self.max_data_bytes, self.s3_payload_threshold_bytes)
        return self.max_data_bytes

    def limits(self) -> Limits:
        """Return what a request may ask for."""
        return Limits(
            event_type_bytes=self.max_event_type_bytes,
            tag_bytes=self.max_tag_bytes,
            tags_per_event=self.max_tags_per_event,
            metadata_pairs=self.max_metadata_pairs,
            metadata_bytes=self.max_metadata_bytes,
            data_bytes=self._data_bytes(),
            events_per_append=self.max_events_per_append,
            append_bytes=self.max_append_bytes,
            conditions_per_append=self.max_conditions_per_append,
            query_items=self.max_query_items,
            appends_per_message=self.max_appends_per_message,
            message_bytes=self.max_message_bytes,
        )
