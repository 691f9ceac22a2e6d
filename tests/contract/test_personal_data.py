"""Personal data from end to end: stored encrypted, read by all, and forgotten everywhere at once."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated
from uuid import UUID

import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    AggregateCache,
    AggregateRoot,
    ConfigurationError,
    EventEnvelope,
    EventRegistry,
    FailurePolicy,
    InvalidEventError,
    Personal,
    PersonalDataError,
    Projection,
    Repository,
    StreamId,
    Subscriber,
    SubscriptionError,
    SubscriptionRunner,
    TypedEventStore,
    cipher,
    every,
)
from k1s0_event_store.testing.runner_contract import eventually

from .stores import InMemory, Postgres

events = EventRegistry()


@events.register("customer.moved_in", version=2)
class MovedIn(BaseModel):
    customer_id: str
    full_name: Annotated[str, Personal(subject="customer_id")]
    born: Annotated[date, Personal(subject="customer_id", forgotten="1900-01-01")]
    room: int


@events.upcast("customer.moved_in", 1)
def _rename(old):
    return {**{key: value for key, value in old.items() if key != "name"}, "full_name": old["name"]}


@events.register("house.painted")
class Painted(BaseModel):
    colour: str


@dataclass
class House(AggregateRoot):
    aggregate_type = "house"

    people: dict[str, str] = field(default_factory=dict)
    colour: str = ""

    def move_in(self, customer_id, name):
        self.record(MovedIn(customer_id=customer_id, full_name=name, born=date(1990, 5, 6), room=1))

    def paint(self, colour):
        self.record(Painted(colour=colour))

    def apply(self, event):
        match event:
            case MovedIn():
                self.people[event.customer_id] = event.full_name
            case Painted():
                self.colour = event.colour


HOUSE = StreamId("house", "h-1")
ANN = MovedIn(customer_id="c-ann", full_name="Ann Unmistakable", born=date(1990, 5, 6), room=1)
BOB = MovedIn(customer_id="c-bob", full_name="Bob Unmistakable", born=date(1991, 5, 6), room=2)
FORGOTTEN_ANN = MovedIn(customer_id="c-ann", full_name="[forgotten]", born=date(1900, 1, 1), room=1)


class PersonalDataContract:
    """Fixtures: store, snapshots, keys, storage."""

    @pytest.fixture
    def typed(self, store, keys):
        return TypedEventStore(store, events, keys=keys)

    async def read_in_every_way(self, typed):
        """What is read by load, stream, replay and read_all, which is the same."""
        loaded = [event.payload for event in await typed.load(HOUSE)]
        assert loaded == [event.payload async for event in typed.stream(HOUSE)]
        assert loaded == [event.payload async for event in typed.read_all()]
        replay = await typed.replay(HOUSE, lambda found, event: [*found, event.payload], [])
        assert loaded == replay.state
        return loaded

    async def test_what_is_stored_is_encrypted_and_read_by_those_with_the_keys(self, typed, store):
        await typed.append(HOUSE, [ANN, Painted(colour="red"), BOB])
        stored = await store.load(HOUSE)
        text = json.dumps([(event.payload, dict(event.metadata)) for event in stored])
        assert "Unmistakable" not in text
        assert "1990" not in text
        assert stored[0].payload["customer_id"] == "c-ann"
        assert await self.read_in_every_way(typed) == [ANN, Painted(colour="red"), BOB]

    async def test_forgetting_a_subject_leaves_the_events_and_everybody_else(self, typed, keys):
        await typed.append(HOUSE, [ANN, BOB])
        assert await keys.forget("c-ann")
        assert await self.read_in_every_way(typed) == [FORGOTTEN_ANN, BOB]
        assert not await keys.forget("c-ann")

    async def test_a_subject_that_comes_back_has_a_new_key(self, typed, keys):
        await typed.append(HOUSE, [ANN])
        await keys.forget("c-ann")
        await typed.append(HOUSE, [ANN])
        assert await self.read_in_every_way(typed) == [FORGOTTEN_ANN, ANN]

    async def test_upcasters_get_what_is_readable(self, typed, store, keys):
        old = EventRegistry()

        @old.register("customer.moved_in")
        class Old(BaseModel):
            customer_id: str
            name: Annotated[str, Personal(subject="customer_id")]
            born: Annotated[date, Personal(subject="customer_id", forgotten="1900-01-01")]
            room: int

        event = Old(customer_id="c-ann", name="Ann Unmistakable", born=date(1990, 5, 6), room=1)
        await TypedEventStore(store, old, keys=keys).append(HOUSE, [event])
        assert await self.read_in_every_way(typed) == [ANN]
        await keys.forget("c-ann")
        assert await self.read_in_every_way(typed) == [FORGOTTEN_ANN]

    async def test_what_is_encrypted_belongs_to_its_event(self, typed, store):
        await typed.append(HOUSE, [ANN])
        (stored,) = await store.load(HOUSE)
        await store.append(
            HOUSE, [EventEnvelope(HOUSE, stored.event_type, stored.payload, stored.metadata)], 1
        )
        with pytest.raises(PersonalDataError):
            await typed.load(HOUSE, 2)

    async def test_handlers_get_what_is_readable(self, typed, store, storage):
        seen = []

        async def project(event, session):
            seen.append(event.payload)

        async def see(event):
            seen.append(event.payload)

        await typed.append(HOUSE, [ANN])
        subscriptions = [Projection("p", typed.handler(project)), Subscriber("s", typed.handler(see))]
        await SubscriptionRunner(store, storage, subscriptions).run_until_caught_up()
        assert seen == [ANN, ANN]

    async def test_what_was_stored_before_its_field_was_marked_stays_as_it_is(self, typed, store, keys):
        unmarked = ANN.model_dump(mode="json")
        await store.append(
            HOUSE, [EventEnvelope(HOUSE, "customer.moved_in", unmarked, {"schema_version": 2})]
        )
        await typed.append(HOUSE, [ANN])
        await keys.forget("c-ann")
        assert await self.read_in_every_way(typed) == [ANN, FORGOTTEN_ANN]

    @pytest.mark.parametrize("park", [True, False])
    async def test_what_is_noted_of_a_failure_does_not_quote_personal_data(
        self, typed, store, storage, keys, park
    ):
        async def mail(event, session):
            raise ValueError(f"no address of {event.payload.full_name}")

        await typed.append(HOUSE, [ANN])
        failure = FailurePolicy(attempts=1, park=park)
        mails = Projection("mails", typed.handler(mail), failure=failure)
        await self.run_as_far_as_it_goes(store, storage, mails)
        noted = await self.noted(storage)
        assert "ValueError at test_personal_data.py:" in noted
        assert "Unmistakable" not in noted
        if park:
            await storage.retry_parked("mails")
            await self.run_as_far_as_it_goes(store, storage, mails)
            assert "Unmistakable" not in await self.noted(storage)

    async def run_as_far_as_it_goes(self, store, storage, subscription):
        with suppress(SubscriptionError):
            await SubscriptionRunner(store, storage, [subscription]).run_until_caught_up()

    async def noted(self, storage):
        """All that is kept of failures."""
        (status,) = await storage.statuses()
        errors = [partition.error for partition in status.partitions]
        return " ".join(filter(None, errors + [one.error for one in await storage.parked()]))

    @pytest.mark.parametrize("kind", [TimeoutError, LookupError])
    async def test_what_is_noted_while_an_error_passes_does_not_quote_personal_data(
        self, typed, store, storage, kind
    ):
        async def mail(event, session):
            raise kind(f"no answer for {event.payload.full_name}")

        await typed.append(HOUSE, [ANN])
        failure = FailurePolicy(is_transient=lambda error: isinstance(error, kind))
        runner = SubscriptionRunner(
            store, storage, [Projection("mails", typed.handler(mail), failure=failure)]
        )
        running = asyncio.create_task(runner.run())

        async def find_what_is_noted():
            return await storage.statuses() and await self.noted(storage)

        noted = await eventually(find_what_is_noted, 60)
        runner.stop()
        await running
        assert "Error at " in noted
        assert "Unmistakable" not in noted

    async def test_without_keys_nothing_is_written_or_read(self, typed, store):
        plain = TypedEventStore(store, events)
        with pytest.raises(ConfigurationError, match="keys="):
            await plain.append(HOUSE, [ANN])
        assert await store.current_version(HOUSE) == 0
        await typed.append(HOUSE, [ANN])
        with pytest.raises(ConfigurationError, match="keys="):
            await plain.load(HOUSE)

    async def test_events_without_personal_fields_need_no_keys(self, typed, store, keys):
        await typed.append(HOUSE, [Painted(colour="red")])
        (stored,) = await store.load(HOUSE)
        assert (stored.payload, dict(stored.metadata)) == ({"colour": "red"}, {})
        assert await TypedEventStore(store, events).load(HOUSE)

    async def test_the_librarys_names_in_metadata_are_taken(self, typed):
        with pytest.raises(InvalidEventError, match="personal_keys"):
            await typed.append(HOUSE, [ANN], metadata={"personal_keys": []})

    # Aggregates

    async def test_snapshots_hold_nothing_readable_and_are_used(self, store, snapshots, keys):
        houses = Repository(store, events, House, snapshots=snapshots, snapshot=every(2), keys=keys)
        await houses.transact("h-1", lambda house: house.move_in("c-ann", "Ann Unmistakable"))
        await houses.transact("h-1", lambda house: house.paint("red"))
        snapshot = await snapshots.load_latest(HOUSE)
        assert snapshot.version == 2
        assert "Unmistakable" not in json.dumps(snapshot.state)
        await self._make_the_snapshot_tell(snapshots, snapshot, keys)
        assert (await houses.load("h-1")).colour == "from the snapshot"

    async def _make_the_snapshot_tell(self, snapshots, snapshot, keys):
        """Replace what the snapshot holds, to see that it is read."""
        from k1s0_event_store.sealer import Sealer, state_key_ids

        place, sealer = json.dumps(["house", "h-1", snapshot.version]), Sealer(keys)
        sealed = snapshot.state["state"]
        state = await sealer.unseal_state(place, sealed)
        state["colour"] = "from the snapshot"
        again = await sealer.seal_state(state_key_ids(place, sealed), place, state)
        await snapshots.save(HOUSE, snapshot.version, {**snapshot.state, "state": again})

    @pytest.mark.parametrize("with_cache", [False, True])
    async def test_who_is_forgotten_is_so_in_snapshots_and_caches(self, store, snapshots, keys, with_cache):
        options = {"cache": AggregateCache()} if with_cache else {}
        houses = Repository(
            store, events, House, snapshots=snapshots, snapshot=every(1), keys=keys, **options
        )
        for customer, name in (("c-ann", "Ann"), ("c-bob", "Bob Lee")):  # no base64: it has no spaces
            await houses.transact("h-1", lambda house, c=customer, n=name: house.move_in(c, n))
        assert (await houses.load("h-1")).people == {"c-ann": "Ann", "c-bob": "Bob Lee"}
        await keys.forget("c-ann")
        assert (await houses.load("h-1")).people == {"c-ann": "[forgotten]", "c-bob": "Bob Lee"}
        await houses.transact("h-1", lambda house: house.paint("red"))
        snapshot = await snapshots.load_latest(HOUSE)
        assert snapshot.version == 3
        assert "Bob Lee" not in json.dumps(snapshot.state)
        await keys.forget("c-bob")
        assert (await houses.load("h-1")).people == {"c-ann": "[forgotten]", "c-bob": "[forgotten]"}

    async def test_no_snapshot_is_taken_of_who_was_forgotten_meanwhile(self, store, snapshots, keys):
        houses = Repository(store, events, House, snapshots=snapshots, snapshot=every(1), keys=keys)

        class Forgetful(type(keys)):
            pass

        loader = houses._transactor.loader
        await TypedEventStore(store, events, keys=keys).append(HOUSE, [ANN])
        loaded = await loader.load(HOUSE)
        await keys.forget("c-ann")
        await loader.save_snapshot(HOUSE, loaded)
        assert await snapshots.load_latest(HOUSE) is None

    async def test_reading_a_snapshot_with_personal_data_needs_the_keys(self, store, snapshots, keys):
        options = {"snapshots": snapshots, "snapshot": every(1)}
        await Repository(store, events, House, keys=keys, **options).transact(
            "h-1", lambda house: house.move_in("c-ann", "Ann")
        )
        with pytest.raises(ConfigurationError, match="keys="):
            await Repository(store, events, House, **options).load("h-1")

    async def test_a_damaged_snapshot_is_replayed(self, store, snapshots, keys, caplog):
        houses = Repository(store, events, House, snapshots=snapshots, snapshot=every(1), keys=keys)
        await houses.transact("h-1", lambda house: house.move_in("c-ann", "Ann"))
        state = (await snapshots.load_latest(HOUSE)).state
        state["state"]["$personal_state"]["data"] = "AAAA"
        await snapshots.save(HOUSE, 1, state)
        assert (await houses.load("h-1")).people == {"c-ann": "Ann"}
        assert "cannot be read" in caplog.text


class TestInMemory(InMemory, PersonalDataContract):
    pass


class TestPostgres(Postgres, PersonalDataContract):
    async def test_key_and_event_are_rolled_back_together(self, typed, store, keys):
        async with AsyncSession(store.bind) as session:
            bound = typed.within(session)
            await bound.append(HOUSE, [ANN])
            assert [event.payload for event in await bound.load(HOUSE)] == [ANN]
            await session.rollback()
        assert await typed.load(HOUSE) == []
        assert not await keys.forget("c-ann")

    async def test_forgetting_can_be_part_of_a_transaction(self, typed, store, keys):
        await typed.append(HOUSE, [ANN])
        async with AsyncSession(store.bind) as session:
            await keys.within(session).forget("c-ann")
            await session.rollback()
        assert await self.read_in_every_way(typed) == [ANN]
        async with AsyncSession(store.bind) as session, session.begin():
            await keys.within(session).forget("c-ann")
        assert await self.read_in_every_way(typed) == [FORGOTTEN_ANN]


def test_models_that_cannot_be_encrypted_are_refused_when_they_are_registered():
    registry = EventRegistry()
    with pytest.raises(ConfigurationError, match="customer"):

        @registry.register("x")
        class NoSubject(BaseModel):
            name: Annotated[str, Personal(subject="customer")]

    with pytest.raises(ConfigurationError, match="forgotten"):

        @registry.register("y")
        class NoValue(BaseModel):
            customer: UUID
            born: Annotated[date, Personal(subject="customer")]


def test_without_the_extra_a_model_with_personal_fields_is_refused_when_it_is_registered(monkeypatch):
    monkeypatch.setattr(cipher, "find_spec", lambda _name: None)
    registry = EventRegistry()
    with pytest.raises(ConfigurationError, match=r"k1s0-event-store\[personal\]"):

        @registry.register("x")
        class Named(BaseModel):
            customer: str
            name: Annotated[str, Personal(subject="customer")]

    @registry.register("y")
    class Plain(BaseModel):
        customer: str
