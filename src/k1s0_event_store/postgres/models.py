"""The tables as declarative classes: their shape, for queries and for Alembic's comparison.

The stores do not write through these classes: append-only data needs no identity map. Triggers,
functions and storage settings stand in the migrations (SQLAlchemy 2.0 knows no fillfactor for tables).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from k1s0_event_store.config import DEFAULT_SCHEMA

STREAMS_KEY: Final = "pk_streams"
EVENTS_VERSION_KEY: Final = "uq_events_version"
EVENTS_ID_KEY: Final = "uq_events_event_id"


class Xid8(UserDefinedType[str]):
    """A 64-bit transaction id (PostgreSQL's xid8)."""

    cache_ok = True

    def get_col_spec(self, **_kw: Any) -> str:
        return "xid8"


# So that reflection, also the app's autogenerate, knows the type instead of warning about it.
ischema_names.setdefault("xid8", Xid8)


class Base(DeclarativeBase):
    """Metadata of our tables, apart from the app's own."""

    metadata = MetaData(schema=DEFAULT_SCHEMA)


class StreamRow(Base):
    """Head of a stream: the row that every append locks. Version 0: locked before its first event."""

    __tablename__ = "streams"
    __table_args__ = (
        PrimaryKeyConstraint("aggregate_type", "aggregate_id", name=STREAMS_KEY),
        CheckConstraint("version >= 0", name="chk_streams_version"),
    )

    aggregate_type: Mapped[str] = mapped_column(Text)
    aggregate_id: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class EventRow(Base):
    """An event. `position` orders all events, `tx` is the transaction that wrote it."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("aggregate_type", "aggregate_id", "version", name=EVENTS_VERSION_KEY),
        UniqueConstraint("event_id", "aggregate_id", name=EVENTS_ID_KEY),
        CheckConstraint("version > 0", name="chk_events_version"),
        Index("idx_events_position", "position"),
        Index("idx_events_tx_position", "tx", "position"),
    )
    # For the mapper only: the table has no primary key, its unique keys all hold aggregate_id.
    __mapper_args__ = {"primary_key": ["aggregate_type", "aggregate_id", "version"]}  # noqa: RUF012 - SQLAlchemy's form

    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    tx: Mapped[str] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))
    aggregate_type: Mapped[str] = mapped_column(Text)
    aggregate_id: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger)
    event_id: Mapped[UUID] = mapped_column(Uuid)
    event_type: Mapped[str] = mapped_column(Text)
    payload: Mapped[Any] = mapped_column(JSON)
    # "metadata" is a name that declarative classes keep for themselves.
    event_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", JSON)
    occurred_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    recorded_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("clock_timestamp()")
    )


class SnapshotRow(Base):
    """State of an aggregate after one of its events."""

    __tablename__ = "snapshots"
    __table_args__ = (PrimaryKeyConstraint("aggregate_type", "aggregate_id", "version", name="pk_snapshots"),)

    aggregate_type: Mapped[str] = mapped_column(Text)
    aggregate_id: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger)
    schema_version: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[Any] = mapped_column(JSON)
    taken_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class ClusterRow(Base):
    """The one row that remembers in which cluster the transaction ids of `events.tx` were drawn."""

    __tablename__ = "cluster"
    __table_args__ = (PrimaryKeyConstraint("system_identifier", name="pk_cluster"),)

    system_identifier: Mapped[int] = mapped_column(BigInteger, autoincrement=False)


class SubscriptionRow(Base):
    """Checkpoint and lease of one partition of one version of a subscription."""

    __tablename__ = "subscriptions"
    __table_args__ = (
        PrimaryKeyConstraint("name", "version", "partition", name="pk_subscriptions"),
        CheckConstraint("version > 0 AND partition >= 0", name="chk_subscriptions_numbers"),
        # One version of a subscription is live.
        Index("uq_subscriptions_live", "name", "partition", unique=True, postgresql_where=text("live")),
    )

    name: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger, autoincrement=False)
    partition: Mapped[int] = mapped_column(BigInteger, autoincrement=False)
    # NULL: at the beginning.
    cursor: Mapped[str | None] = mapped_column(Text)
    # Until there all was handled before: side effects are not fired again.
    replay_until: Mapped[str | None] = mapped_column(Text)
    handled: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    live: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    # False: what was handled before a reset is not handled again.
    repeats: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))
    paused: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    # Raised whenever the partition changes hands: who knows an older one cannot move the cursor.
    token: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    owner: Mapped[str | None] = mapped_column(Text)
    leased_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    error: Mapped[str | None] = mapped_column(Text)
    failed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # The handler failed and was told to stop there.
    stopped: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class SubscriptionWorkerRow(Base):
    """A process that runs a subscription, for as long as it says so."""

    __tablename__ = "subscription_workers"
    __table_args__ = (PrimaryKeyConstraint("name", "version", "worker", name="pk_subscription_workers"),)

    name: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger, autoincrement=False)
    worker: Mapped[str] = mapped_column(Text)
    alive_until: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class DeadLetterRow(Base):
    """An event that a subscription has parked: its handler failed, or waits for one of the same stream."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        PrimaryKeyConstraint(
            "name", "version", "aggregate_type", "aggregate_id", "event_version", name="pk_dead_letters"
        ),
    )

    name: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger, autoincrement=False)
    aggregate_type: Mapped[str] = mapped_column(Text)
    aggregate_id: Mapped[str] = mapped_column(Text)
    event_version: Mapped[int] = mapped_column(BigInteger, autoincrement=False)
    partition: Mapped[int] = mapped_column(BigInteger)
    event_type: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(BigInteger)
    # NULL: it waits for an earlier event of its stream.
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    retry: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    parked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class PersonalKeyRow(Base):
    """The key of a subject of personal data, encrypted with the wrapping key of this name."""

    __tablename__ = "personal_keys"
    __table_args__ = (
        PrimaryKeyConstraint("key_id", name="pk_personal_keys"),
        UniqueConstraint("subject", name="uq_personal_keys_subject"),
    )

    key_id: Mapped[UUID] = mapped_column(Uuid)
    subject: Mapped[str] = mapped_column(Text)
    wrapping_key: Mapped[str] = mapped_column(Text)
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


class InboxRow(Base):
    """A message that a consumer has handled."""

    __tablename__ = "inbox"
    __table_args__ = (
        PrimaryKeyConstraint("consumer", "message_id", name="pk_inbox"),
        Index("idx_inbox_handled_at", "consumer", "handled_at"),
    )

    consumer: Mapped[str] = mapped_column(Text)
    message_id: Mapped[str] = mapped_column(Text)
    handled_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("now()"))


def metadata_for(schema: str = DEFAULT_SCHEMA) -> MetaData:
    """Our tables in `schema`, for Alembic's comparison or `create_all` in throw-away databases."""
    metadata = MetaData(schema=schema)
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata, schema=schema)
    return metadata
