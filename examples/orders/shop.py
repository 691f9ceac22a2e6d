"""What the endpoints work with: one engine, and everything that is made on it."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from k1s0_event_store import (
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    Repository,
    every,
)
from orders.events import events
from orders.order import Order


@dataclass(frozen=True)
class Shop:
    """One per process."""

    sessions: async_sessionmaker[AsyncSession]
    store: PostgresEventStore
    orders: Repository[Order]
    subscriptions: PostgresSubscriptionStore


def open_shop(engine: AsyncEngine) -> Shop:
    """Nothing here needs to be closed: the engine is the caller's."""
    store, snapshots = PostgresEventStore(bind=engine), PostgresSnapshotStore(bind=engine)
    return Shop(
        async_sessionmaker(engine),
        store,
        # Few orders will ever have 50 events; for those who do, loading stays as fast.
        Repository(store, events, Order, snapshots=snapshots, snapshot=every(50)),
        PostgresSubscriptionStore(bind=engine),
    )
