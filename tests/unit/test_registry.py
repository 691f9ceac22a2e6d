"""The registry: which class is stored under which name, and that what is stored comes back as it was."""

from __future__ import annotations

import math
import traceback
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    computed_field,
    field_serializer,
)
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import TypedDict

from k1s0_event_store import (
    CorruptDataError,
    EventDecodeError,
    EventEnvelope,
    EventRegistry,
    InMemoryEventStore,
    InvalidEventError,
    InvalidInputError,
    RegistryError,
    StreamId,
    TypedEventStore,
    UnknownEventTypeError,
)
from k1s0_event_store.events.event_type import EventType, MismatchError
from k1s0_event_store.jsontext import decode, encode

ORDER = StreamId("order", "o-1")
T = TypeVar("T")


class Placed(BaseModel):
    customer: str
    amount: int = Field(gt=0)


@dataclass(frozen=True)
class Shipped:
    tracking: str
    parcels: int = 1


class Cancelled(TypedDict):
    type: Literal["order.cancelled"]
    reason: str


@pytest.fixture
def events():
    registry = EventRegistry()
    registry.register("order.placed", aliases=["order.created", "OrderCreated"])(Placed)
    registry.register("order.shipped")(Shipped)
    registry.register("order.cancelled")(Cancelled)
    return registry


def registered(model, name="tested", **options):
    """A registry with one model."""
    registry = EventRegistry()
    registry.register(name, **options)(model)
    return registry


def stored(envelope):
    """The envelope as a store gives it back: its JSON has been text."""
    metadata = decode(encode(dict(envelope.metadata)))
    return EventEnvelope(
        envelope.stream_id,
        envelope.event_type,
        decode(encode(envelope.payload)),
        metadata,
        envelope.event_id,
        version=3,
        position=7,
    )


def kept(payload, event_type="tested", **metadata):
    """A stored event with this payload."""
    return EventEnvelope(ORDER, event_type, payload, metadata, version=3)


def back(registry, event):
    """The event after it was stored and read."""
    (read,) = registry.decode(stored(registry.envelope(ORDER, event)))
    return read.payload


# Names


@pytest.mark.parametrize(
    ("event", "name", "payload"),
    [
        (Placed(customer="ann", amount=3), "order.placed", {"customer": "ann", "amount": 3}),
        (Shipped("T-1"), "order.shipped", {"tracking": "T-1", "parcels": 1}),
        ({"type": "order.cancelled", "reason": "late"}, "order.cancelled", {"reason": "late"}),
    ],
)
def test_an_event_is_stored_under_its_name_and_comes_back_as_its_class(events, event, name, payload):
    envelope = events.envelope(ORDER, event)
    assert (envelope.stream_id, envelope.event_type, envelope.payload) == (ORDER, name, payload)
    assert envelope.metadata == {}
    assert back(events, event) == event


def test_what_is_read_keeps_the_facts_of_the_stored_event(events):
    envelope = stored(events.envelope(ORDER, Shipped("T-1"), {"actor": "ann"}))
    (read,) = events.decode(envelope)
    assert read.payload == Shipped("T-1")
    assert envelope.payload == {"tracking": "T-1", "parcels": 1}
    for name in ("stream_id", "event_type", "metadata", "event_id", "occurred_at", "version", "position"):
        assert getattr(read, name) == getattr(envelope, name)


@pytest.mark.parametrize("alias", ["order.created", "OrderCreated"])
def test_events_under_an_older_name_are_read_under_the_one_of_today(events, alias):
    (read,) = events.decode(kept({"customer": "ann", "amount": 3}, alias))
    assert (read.event_type, read.payload) == ("order.placed", Placed(customer="ann", amount=3))


def test_a_class_or_an_alias_says_which_name_is_meant(events):
    assert [events.name_of(one) for one in (Placed, "order.created", "order.placed", Cancelled)] == [
        "order.placed",
        "order.placed",
        "order.placed",
        "order.cancelled",
    ]
    assert events.names_of(Placed, "order.shipped") == [
        "OrderCreated",
        "order.created",
        "order.placed",
        "order.shipped",
    ]
    assert events.names_of() == []


@pytest.mark.parametrize("unknown", ["order.lost", Decimal])
def test_a_name_or_class_that_is_not_registered_is_refused(events, unknown):
    for ask in (events.name_of, events.names_of):
        with pytest.raises(InvalidInputError, match="no event type of today: register it"):
            ask(unknown)


@pytest.mark.parametrize("event", [Decimal(3), {"type": "order.lost"}, {}, [], None, "order.placed", Placed])
def test_an_event_that_is_not_registered_is_refused(events, event):
    with pytest.raises(InvalidInputError, match="not a registered event; register its class first"):
        events.envelope(ORDER, event)


def test_a_subclass_is_an_event_of_its_own(events):
    class Express(Placed):
        pass

    with pytest.raises(InvalidInputError, match="a Express is not a registered event"):
        events.envelope(ORDER, Express(customer="ann", amount=3))
    events.register("order.express")(Express)
    assert type(back(events, Express(customer="ann", amount=3))) is Express


def test_the_registration_gives_the_class_back(events):
    assert events.register("another")(Decorated) is Decorated


@dataclass
class Decorated:
    n: int


# What registration refuses


@pytest.mark.parametrize("name", ["order.placed", "order.created", "OrderCreated"])
def test_a_name_is_registered_once(events, name):
    with pytest.raises(RegistryError, match=f"{name!r} is registered already; names are unique"):
        events.register(name)(Decorated)
    with pytest.raises(RegistryError, match=f"{name!r} is registered already; names are unique"):
        events.register("new", aliases=["other", name])(Decorated)
    events.register("new", aliases=["other"])(Decorated)
    assert events.names_of(Decorated) == ["new", "other"]


@pytest.mark.parametrize("aliases", [["tested"], ["same", "same"]])
def test_an_alias_is_another_name(aliases):
    with pytest.raises(RegistryError, match="names are unique"):
        registered(Decorated, aliases=aliases)


def test_a_class_is_registered_once(events):
    with pytest.raises(RegistryError, match=r"is registered already, as 'order.placed'"):
        events.register("order.placed.again")(Placed)


def test_a_registration_that_was_refused_leaves_nothing_behind(events):
    for options in ({"aliases": [""]}, {"aliases": ["\x00"]}, {"aliases": [5]}, {"version": 0}):
        with pytest.raises(InvalidInputError):
            events.register("new", **options)(Decorated)
    events.register("new")(Decorated)
    assert back(events, Decorated(3)) == Decorated(3)


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.5, None])
def test_a_version_is_a_whole_number_from_1_on(events, version):
    with pytest.raises(RegistryError, match="whole number from 1 on"):
        events.register("new", version=version)(Decorated)
    with pytest.raises(RegistryError, match="whole number from 1 on"):
        events.upcast("new", version)(lambda old: old)


@pytest.mark.parametrize("name", ["", "x" * 256, "a\x00b", None, Placed])
def test_a_name_that_no_store_can_keep_is_refused(events, name):
    with pytest.raises(InvalidInputError, match="an event type must"):
        events.register(name)(Decorated)
    with pytest.raises(InvalidInputError, match="an event type must"):
        events.upcast(name, 1)(lambda old: old)


def test_one_alias_without_a_list_is_refused():
    with pytest.raises(RegistryError, match="aliases must be a list of names, not 'older'"):
        registered(Decorated, aliases="older")
    with pytest.raises(RegistryError, match="aliases must be a list of names, not 5"):
        registered(Decorated, aliases=5)


class Plain:
    def __init__(self, n):
        self.n = n


@pytest.mark.parametrize("model", [Plain, int, Enum("Colour", "RED"), Decorated(3), "Placed", list[int]])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(RegistryError, match="no pydantic model, dataclass or TypedDict; make it one of them"):
        registered(model)


def test_a_model_that_pydantic_cannot_handle_is_refused():
    @dataclass
    class Odd:
        plain: Plain

    with pytest.raises(RegistryError, match=r"'tested': pydantic cannot handle .*Plain"):
        registered(Odd)


class Untagged(TypedDict):
    kind: str
    reason: str


class WronglyTagged(TypedDict):
    type: Literal["other", "tested"]


@pytest.mark.parametrize("model", [Untagged, WronglyTagged])
def test_a_dictionary_must_say_what_it_is(model):
    with pytest.raises(RegistryError, match=rf'give {model.__name__} a key for that, .* Literal\["tested"\]'):
        registered(model)


def test_dictionaries_are_told_apart_by_their_tags():
    class Opened(TypedDict):
        kind: Literal["opened"]
        n: int

    class Closed(TypedDict, total=False):
        kind: Literal["closed"]
        type: str

    registry = registered(Opened, "opened")
    registry.register("closed")(Closed)
    for event in ({"kind": "opened", "n": 1}, {"kind": "closed"}, {"kind": "closed", "type": "opened"}):
        assert back(registry, event) == event
    with pytest.raises(InvalidInputError, match="a dict is not a registered event"):
        registry.envelope(ORDER, {"kind": ["opened"]})


def test_the_tag_is_not_stored_and_the_dictionary_is_not_changed(events):
    event = {"type": "order.cancelled", "reason": "late"}
    envelope = events.envelope(ORDER, event)
    assert event == {"type": "order.cancelled", "reason": "late"}
    assert events.decode(envelope)[0].payload == event
    assert envelope.payload == {"reason": "late"}


# Classes that are defined later in the module


class LaterModel(BaseModel):
    part: Part


@dataclass
class LaterDataclass:
    part: Part


class LaterDictionary(TypedDict):
    part: Part
    type: Literal["later.dictionary"]


early = EventRegistry()
early.register("later.model")(LaterModel)
early.register("later.dataclass")(LaterDataclass)
early.register("later.dictionary")(LaterDictionary)


@dataclass
class Part:
    n: int
    parts: list[Part] = field(default_factory=list)


def test_classes_may_refer_to_others_that_come_later():
    part = Part(1, [Part(2, [Part(3)])])
    for event in (
        LaterModel(part=part),
        LaterDataclass(part),
        {"type": "later.dictionary", "part": part},
    ):
        assert back(early, event) == event


class NeverModel(BaseModel):
    part: Never  # noqa: F821  # it is not there


@dataclass
class NeverDataclass:
    part: Never  # noqa: F821


class NeverDictionary(TypedDict):
    type: Literal["tested"]
    part: Never  # noqa: F821


@pytest.mark.parametrize("model", [NeverModel, NeverDataclass, NeverDictionary])
def test_a_class_that_is_never_defined_is_told_at_the_first_use(model):
    registry = registered(model)
    for use in (
        registry.check,
        lambda: registry.envelope(ORDER, Decorated(1)),
        lambda: registry.decode(kept({})),
    ):
        with pytest.raises(
            RegistryError, match=f"'tested': {model.__name__} refers to 'Never', .* define it"
        ):
            use()


# Models of all kinds


class Colour(Enum):
    RED = 1
    BLUE = "blue"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    at: datetime
    clock: time
    took: timedelta
    key: UUID
    price: Decimal
    raw: bytes
    colour: Colour
    pair: tuple[int, str]
    tags: set[str]
    by_number: dict[int, float]


STRICT = Strict(
    day=date(2024, 2, 29),
    at=datetime(2024, 2, 29, 12, 30, 0, 123456, tzinfo=UTC),
    clock=time(23, 59, 59, 999999),
    took=timedelta(days=-1, microseconds=1),
    key=UUID(int=7),
    price=Decimal("1.10"),
    raw="ä\x01".encode(),
    colour=Colour.BLUE,
    pair=(1, "a"),
    tags={"x", "y", "z"},
    by_number={1: 0.5, -2: 1e300},
)


class Chosen(BaseModel):
    key: UUID | str
    day: datetime | date
    found: list[date | int | None] = []


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")

    customer_id: str = Field(alias="customerId")
    lines: list[Line] = Field(default=[], alias="positions")

    @computed_field
    def total(self) -> Decimal:
        return sum((line.price for line in self.lines), Decimal(0))


@dataclass
class Line:
    sku: str
    price: Decimal = Decimal("0.00")


class Numbers(RootModel[list[int]]):
    pass


class Changed(BaseModel, Generic[T]):
    old: T | None
    new: T


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    raw: bytes


class Point:
    """A type that pydantic makes of JSON only, as others write them; elsewhere it wants an instance."""

    def __init__(self, text):
        self.text = text

    def __eq__(self, other):
        return self.text == other.text

    def __hash__(self):
        return hash(self.text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(cls, core_schema.str_schema()),
            python_schema=core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda point: point.text),
        )


class Pinned(BaseModel):
    at: Point


@dataclass(frozen=True, slots=True)
class Nested:
    line: Line
    colour: Colour = Colour.RED
    inner: Nested | None = None


@dataclass
class Derived:
    net: int
    gross: int = field(init=False)

    def __post_init__(self):
        self.gross = self.net * 2


@dataclass(eq=False)
class WithoutEquality:
    tags: set[str]
    number: int


class WithPrivate(BaseModel):
    n: int
    _seen: int = PrivateAttr(default=0)


@pytest.mark.parametrize(
    "event",
    [
        STRICT,
        Chosen(key=UUID(int=3), day=date(2024, 1, 1), found=[date(2024, 1, 1), 3, None]),
        Chosen(key="a name", day=datetime(2024, 1, 1, 12)),
        Aliased(customerId="c-1", positions=[Line("a", Decimal("1.10")), Line("b", Decimal("2.20"))]),
        Numbers([3, 1, 2]),
        Changed[date](old=None, new=date(2024, 1, 1)),
        Changed[Changed[int]](old=Changed[int](old=1, new=2), new=Changed[int](old=None, new=3)),
        Base64(raw=b"\xff\x00"),
        Pinned(at=Point("1,2")),
        Nested(Line("a"), Colour.BLUE, Nested(Line("b"))),
        Derived(3),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_comes_back_as_it_was(event):
    again = back(registered(type(event)), event)
    assert again == event
    assert type(again) is type(event)


def test_what_knows_no_equality_is_compared_by_its_json():
    """Sets have no order, so that lists of the JSON may differ."""
    registry = registered(WithoutEquality)
    tags = {f"tag {n}" for n in range(40)}
    assert back(registry, WithoutEquality(tags, 3)).tags == tags
    private = WithPrivate(n=3)
    private._seen = 5
    assert back(registered(WithPrivate), private).n == 3


def test_an_aliased_field_is_stored_under_its_alias_and_a_computed_one_not_at_all():
    envelope = registered(Aliased).envelope(ORDER, Aliased(customerId="c-1"))
    assert envelope.payload == {"customerId": "c-1", "positions": []}


def test_the_serializers_of_fields_get_the_context():
    class Masked(BaseModel):
        name: str

        @field_serializer("name")
        def mask(self, name: str, info: Any) -> str:
            return "***" if info.context == {"masked": True} else name

    masked = EventType("tested", 1, Masked)
    assert masked.dump(Masked(name="ann"), {"masked": True}) == {"name": "***"}
    assert masked.dump(Masked(name="ann")) == {"name": "ann"}
    with pytest.raises(MismatchError, match="name: Input should be a valid string"):
        masked.dump(Masked.model_construct(name=3), {"masked": True})


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False)
LINES = st.builds(Line, TEXTS, AMOUNTS)
ANY_EVENT = st.one_of(
    st.builds(
        Strict,
        day=st.dates(),
        at=st.datetimes(timezones=st.just(UTC)),
        clock=st.times(),
        took=st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)),
        key=st.uuids(),
        price=AMOUNTS,
        raw=TEXTS.map(str.encode),
        colour=st.sampled_from(Colour),
        pair=st.tuples(st.integers(), TEXTS),
        tags=st.sets(TEXTS),
        by_number=st.dictionaries(st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    ),
    st.builds(
        Chosen,
        key=st.uuids() | st.just("a name"),
        day=st.dates() | st.datetimes(),
        found=st.lists(st.dates() | st.integers() | st.none()),
    ),
    st.recursive(
        st.builds(Nested, LINES, st.sampled_from(Colour)),
        lambda inner: st.builds(Nested, LINES, st.sampled_from(Colour), inner),
        max_leaves=5,
    ),
    st.builds(Placed, customer=TEXTS, amount=st.integers(min_value=1)),
)


@given(ANY_EVENT)
def test_any_event_comes_back_as_it_was(event):
    assert back(registered(type(event)), event) == event


# What does not fit its model is not stored


def refused(event, registry=None):
    """Why an event is not stored."""
    with pytest.raises(InvalidInputError) as error:
        (registry or registered(type(event))).envelope(ORDER, event)
    assert "4711" not in "".join(traceback.format_exception(error.value))
    return str(error.value)


def assigned(**values):
    event = Placed(customer="ann", amount=3)
    for name, value in values.items():
        setattr(event, name, value)
    return event


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (assigned(amount="4711x"), "amount: Input should be a valid integer"),
        (assigned(amount="4711"), "amount: not of the type that is declared"),
        (assigned(amount=-4711), "amount: Input should be greater than 0"),
        (assigned(customer=4711), "customer: Input should be a valid string"),
        (Placed.model_construct(customer="4711"), "amount: Field required"),
        (Placed.model_construct(customer="ann", amount=Plain(4711)), "Unable to serialize unknown type"),
        (Placed(customer="4711", amount=1).model_copy(update={"amount": 0}), "amount: Input should be"),
        (Shipped(4711), "tracking: Input should be a valid string"),
        (Shipped("T", "4711"), "parcels: not of the type that is declared"),
        (
            Nested(Line("a", Decimal(1)), "blue", Nested(Line("a", "4711"))),
            "colour, inner: not of the type that is declared",
        ),
        (Aliased.model_construct(customer_id=None), "customerId: Input should be a valid string"),
        (Strict.model_construct(**{**dict(STRICT), "key": "4711"}), "key: Input should be a valid UUID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_that_is_not_what_its_type_says_is_refused_without_showing_it(event, reason):
    assert reason in refused(event)


def test_a_dictionary_that_does_not_fit_is_refused(events):
    event = {"type": "order.cancelled"}
    assert "it does not fit 'order.cancelled': reason: Field required" in refused(event, events)
    event = {"type": "order.cancelled", "reason": 4711}
    assert "reason: Input should be a valid string" in refused(event, events)


class Item(TypedDict):
    sku: str


class Listed(TypedDict):
    type: Literal["tested"]
    items: list[Item]


def test_a_key_that_a_dictionary_does_not_know_is_refused_and_not_lost():
    registry = registered(Listed)
    event = {"type": "tested", "items": [{"sku": "a"}]}
    assert back(registry, event) == event
    assert "itmes: would not come back as it is" in refused({**event, "itmes": 4711}, registry)
    deep = {"type": "tested", "items": [{"sku": "a"}, {"sku": "b", "colour": "4711"}]}
    assert "items: would not come back as it is" in refused(deep, registry)


class ReadUnderAnotherName(BaseModel):
    note: str = Field("", serialization_alias="remark")


class WrittenOtherwise(BaseModel):
    euros: int

    @field_serializer("euros")
    def cents(self, euros: int) -> int:
        return euros * 100


class Failing(BaseModel):
    n: int

    @field_serializer("n")
    def fail(self, n: int) -> int:
        raise LookupError("no rate for today")


class Bytes(BaseModel):
    raw: bytes


@dataclass
class NeedsMore:
    n: int
    rate: InitVar[int]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (ReadUnderAnotherName(note="4711"), "note: would not come back as it is; do aliases and serializers"),
        (WrittenOtherwise(euros=4711), "euros: would not come back as it is"),
        (Failing(n=4711), "LookupError: no rate for today"),
        (Bytes(raw=b"\xff"), "invalid utf-8"),
        (NeedsMore(1, 4711), "rate: Field required"),
        (Numbers.model_construct(root=[1, "4711x"]), "1: Input should be a valid integer"),
        (Numbers.model_construct(root="4711"), "the payload: Input should be a valid list"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(event, reason):
    assert reason in refused(event)


def test_only_the_first_of_many_misfits_are_told():
    event = Numbers.model_construct(root=["x"] * 8)
    reason = refused(event)
    assert reason.count("valid integer") == 5
    assert reason.endswith("; and 3 more")


@pytest.mark.parametrize("value", [math.nan, math.inf])
async def test_numbers_that_are_none_are_refused_at_the_append(value):
    @dataclass
    class Measured:
        degrees: float

    store = TypedEventStore(InMemoryEventStore(), registered(Measured))
    with pytest.raises(InvalidEventError, match=r"Event 1 .* is no JSON number") as error:
        await store.append(ORDER, [Measured(3.5), Measured(value)])
    assert error.value.index == 1
    assert await store.load(ORDER) == []


# Envelopes with objects


def test_an_envelope_with_the_object_keeps_its_own_facts(events):
    at = datetime(2024, 1, 1, tzinfo=UTC)
    mine = EventEnvelope(ORDER, "order.shipped", Shipped("T"), {"actor": "ann"}, UUID(int=5), at)
    made = events.envelope(ORDER, mine, {"actor": "bob", "tenant": "t"})
    assert (made.event_id, made.occurred_at) == (UUID(int=5), at)
    assert made.metadata == {"actor": "ann", "tenant": "t"}
    assert made.payload == {"tracking": "T", "parcels": 1}
    assert mine.payload == Shipped("T")


def test_an_envelope_under_another_name_is_refused(events):
    with pytest.raises(InvalidInputError, match=r"event_type is 'order.created', but it is a 'order.placed'"):
        events.envelope(ORDER, EventEnvelope(ORDER, "order.created", Placed(customer="a", amount=1)))
    with pytest.raises(InvalidInputError, match="a Decimal is not a registered event"):
        events.envelope(ORDER, EventEnvelope(ORDER, "order.placed", Decimal(1)))


def test_the_version_of_the_payload_is_in_the_metadata_if_it_is_not_the_first():
    first = registered(Decorated).envelope(ORDER, Decorated(1), {"actor": "ann"})
    assert first.metadata == {"actor": "ann"}
    later = EventRegistry()
    later.register("tested", version=2)(Decorated)
    later.upcast("tested", 1)(lambda old: old)
    assert later.envelope(ORDER, Decorated(1)).metadata == {"schema_version": 2}
    assert later.envelope(ORDER, Decorated(1), {"actor": "ann"}).metadata == {
        "actor": "ann",
        "schema_version": 2,
    }


def test_the_version_of_the_payload_cannot_be_given(events):
    given = {"schema_version": 1}
    with pytest.raises(InvalidInputError, match="'schema_version' is set by the library; leave it out"):
        events.envelope(ORDER, Shipped("T"), given)
    with pytest.raises(InvalidInputError, match="'schema_version' is set by the library; leave it out"):
        events.envelope(ORDER, EventEnvelope(ORDER, "order.shipped", Shipped("T"), given))


# Stored events that are not registered, or do not fit


@pytest.mark.parametrize(
    ("envelope", "schema_version", "words"),
    [
        (kept({"n": 1}, "order.lost"), None, "event type 'order.lost' is not registered"),
        (
            kept({"n": 1}, "order.shipped", schema_version=3),
            3,
            "'order.shipped' in schema version 3 is not registered",
        ),
        (kept({"n": 1}, "order.created", schema_version=2), 2, "'order.created' in schema version 2"),
        (kept({"n": 1}, "order.shipped", schema_version=0), 0, "schema version 0"),
        (kept({"n": 1}, "order.shipped", schema_version="1"), "1", "schema version 1 is"),
        (kept({"n": 1}, "order.shipped", schema_version=[1]), [1], "schema version [1] is"),
    ],
)
def test_what_is_not_registered_is_refused_left_out_or_given_raw(events, envelope, schema_version, words):
    with pytest.raises(UnknownEventTypeError) as error:
        events.decode(envelope)
    assert words in str(error.value)
    assert 'register it, or read with unknown="skip" or "raw"' in str(error.value)
    assert (error.value.stream_id, error.value.version, error.value.event_type) == (
        ORDER,
        3,
        envelope.event_type,
    )
    assert error.value.schema_version == schema_version
    assert isinstance(error.value, CorruptDataError)
    assert events.decode(envelope, "skip") == []
    assert events.decode(envelope, "raw") == [envelope]


def test_what_is_registered_is_decoded_whatever_is_said_of_the_unknown(events):
    envelope = kept({"tracking": "T"}, "order.shipped")
    for unknown in ("error", "skip", "raw"):
        assert [each.payload for each in events.decode(envelope, unknown)] == [Shipped("T")]
        with pytest.raises(EventDecodeError):
            events.decode(kept({}, "order.shipped"), unknown)


@pytest.mark.parametrize("unknown", ["ignore", None, True, ["skip"]])
def test_another_word_for_the_unknown_is_refused(events, unknown):
    with pytest.raises(InvalidInputError, match='unknown must be "error", "skip" or "raw", not'):
        TypedEventStore(InMemoryEventStore(), events, unknown=unknown)


def check_positive(value):
    if value <= 0:
        raise ValueError(f"{value} is not positive")
    return value


def check_even(value):
    assert value % 2 == 0, f"{value} is odd"
    return value


def check_custom(value):
    raise PydanticCustomError("too_odd", "{value} is too odd", {"value": value})


class Apple(BaseModel):
    kind: Literal["apple"]


class Pear(BaseModel):
    kind: Literal["pear"]


class Told(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lines: list[Line] = []
    n: int = 2
    positive: Annotated[int, AfterValidator(check_positive)] = 2
    even: Annotated[int, AfterValidator(check_even)] = 2
    custom: Annotated[int, AfterValidator(check_custom)] = 2
    fruit: Annotated[Apple | Pear, Field(discriminator="kind")] = Apple(kind="apple")
    colour: Literal["red", "blue"] = "red"
    key: UUID = UUID(int=0)
    chosen: int | date = 2


@pytest.mark.parametrize(
    ("payload", "fields", "words"),
    [
        ({"n": "s3cret"}, ("n",), "n: Input should be a valid integer"),
        (
            {"lines": [{"sku": "a"}, {"price": "s3cret"}]},
            ("lines.1.sku", "lines.1.price"),
            "lines.1.sku: Field",
        ),
        ({"positive": -4711}, ("positive",), "positive: refused by its validator (value_error)"),
        ({"even": 4711}, ("even",), "even: refused by its validator (assertion_error)"),
        ({"custom": 4711}, ("custom",), "custom: refused by its validator (too_odd)"),
        ({"fruit": {"kind": "s3cret"}}, ("fruit",), "fruit: refused by its validator (union_tag_invalid)"),
        ({"colour": "s3cret"}, ("colour",), "colour: Input should be 'red' or 'blue'"),
        ({"key": "s3cret"}, ("key",), "key: Input should be a valid UUID"),
        ({"chosen": "s3cret"}, ("chosen.int", "chosen.date"), "chosen.int: Input should be"),
        ({"surplus": "s3cret"}, ("surplus",), "surplus: Extra inputs are not permitted"),
        (["s3cret"], ("",), "the payload: "),
        ("s3cret", ("",), "the payload: "),
        (None, ("",), "the payload: "),
    ],
)
def test_an_event_that_cannot_be_decoded_is_named_without_its_values(payload, fields, words):
    with pytest.raises(EventDecodeError) as found:
        registered(Told, "tested").decode(kept(payload))
    error = found.value
    assert str(error).startswith("version 3 of order-o-1 cannot be read as 'tested': ")
    assert words in error.reason
    assert (error.stream_id, error.version, error.event_type) == (ORDER, 3, "tested")
    assert error.fields == fields
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert "s3cret" not in shown
    assert "4711" not in shown


def test_a_dictionary_that_cannot_be_decoded_is_named_too(events):
    with pytest.raises(EventDecodeError, match=r"'order.cancelled': reason: Field required"):
        events.decode(kept({}, "order.cancelled"))
    with pytest.raises(EventDecodeError, match=r"'order.cancelled': the payload: Input should be"):
        events.decode(kept(["order.cancelled"], "order.cancelled"))
