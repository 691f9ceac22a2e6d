"""Upcasters: what old events become, and that a chain with a gap is found before it is used."""

import traceback
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import RootModel

from k1s0_event_store import (
    As,
    EventDecodeError,
    EventEnvelope,
    EventRegistry,
    InvalidInputError,
    RegistryError,
    StreamId,
    UnknownEventTypeError,
)
from k1s0_event_store.jsontext import decode, encode

ORDER = StreamId("order", "o-1")


@dataclass
class Placed:
    customer: str
    cents: int


@dataclass
class Noted:
    text: str


@dataclass
class Either:
    key: UUID | str


class Values(RootModel[Any]):
    pass


def kept(payload, event_type="order.placed", **metadata):
    """A stored event with this payload."""
    return EventEnvelope(ORDER, event_type, payload, metadata, UUID(int=5), version=3, position=7)


def of_models(version=1, **others):
    """A registry with `order.placed` in this version, and other models by name."""
    events = EventRegistry()
    events.register("order.placed", version=version)(Placed)
    for name, model in others.items():
        events.register(name)(model)
    return events


def read(events, payload, event_type="order.placed", **metadata):
    """What a stored payload is today."""
    return [(each.event_type, each.payload) for each in events.decode(kept(payload, event_type, **metadata))]


def refusal(events):
    """Why a registry cannot be used: told by each of its uses."""
    reasons = set()
    for use in (
        events.check,
        lambda: events.envelope(ORDER, Placed("ann", 3)),
        lambda: events.decode(kept({"customer": "ann", "cents": 3})),
        lambda: events.decode(kept({}, "order.lost"), "skip"),
    ):
        with pytest.raises(RegistryError) as error:
            use()
        reasons.add(str(error.value))
    (reason,) = reasons
    return reason


# Chains


@pytest.fixture
def chain():
    events = of_models(3)

    @events.upcast("order.placed", 2)
    def to_cents(old):
        old["cents"] = round(old.pop("amount") * 100)
        return old

    @events.upcast("order.placed", 1)
    def to_customer(old):
        return {"customer": old["name"], "amount": old["amount"]}

    return events


@pytest.mark.parametrize(
    ("metadata", "payload"),
    [
        ({}, {"name": "ann", "amount": 1.1}),
        ({"schema_version": 1}, {"name": "ann", "amount": 1.1}),
        ({"schema_version": 2}, {"customer": "ann", "amount": 1.1}),
        ({"schema_version": 3}, {"customer": "ann", "cents": 110}),
    ],
)
def test_an_old_event_goes_through_all_upcasters_from_its_version_on(chain, metadata, payload):
    assert read(chain, payload, **metadata) == [("order.placed", Placed("ann", 110))]


def test_the_decorator_gives_the_function_back():
    def function(old):
        return old

    assert of_models().upcast("order.placed", 1)(function) is function


def test_a_new_event_is_not_upcast(chain):
    envelope = chain.envelope(ORDER, Placed("ann", 110))
    assert envelope.payload == {"customer": "ann", "cents": 110}
    assert chain.decode(envelope)[0].payload == Placed("ann", 110)


def test_events_under_an_alias_are_upcast_as_those_of_the_type():
    events = EventRegistry()
    events.register("order.placed", version=2, aliases=["order.created"])(Placed)
    events.upcast("order.placed", 1)(lambda old: {"customer": old["name"], "cents": 5})
    assert read(events, {"name": "ann"}, "order.created") == [("order.placed", Placed("ann", 5))]
    current = {"customer": "ann", "cents": 6}
    assert read(events, current, "order.created", schema_version=2) == [("order.placed", Placed("ann", 6))]


def test_an_upcaster_may_give_python_values_as_the_model_has_them():
    events = of_models(2)
    events.upcast("order.placed", 1)(lambda old: Placed("ann", old["cents"]))
    assert read(events, {"cents": 5}) == [("order.placed", Placed("ann", 5))]


# Drop and split


def test_an_event_can_be_left_out():
    events = of_models(2)
    events.upcast("order.placed", 1)(lambda old: [] if old["cents"] == 0 else old)
    assert read(events, {"customer": "ann", "cents": 0}) == []
    assert len(read(events, {"customer": "ann", "cents": 1})) == 1


def test_an_event_can_become_several_of_its_type():
    events = of_models(2)
    events.upcast("order.placed", 1)(lambda old: [{"customer": name, "cents": 1} for name in old["names"]])
    assert read(events, {"names": ["ann", "bob"]}) == [
        ("order.placed", Placed("ann", 1)),
        ("order.placed", Placed("bob", 1)),
    ]


@pytest.mark.parametrize("kind", [list, tuple])
def test_parts_of_other_types_say_which(kind):
    events = of_models(2, noted=Noted)

    @events.upcast("order.placed", 1, into=["noted"])
    def split(old):
        text = old.pop("note")
        return kind([As("noted", {"text": text}), old, As("noted", {"text": "end"})])

    assert read(events, {"customer": "ann", "cents": 1, "note": "quick"}) == [
        ("noted", Noted("quick")),
        ("order.placed", Placed("ann", 1)),
        ("noted", Noted("end")),
    ]


def test_an_event_can_become_one_of_another_type():
    events = of_models(2, noted=Noted)
    events.upcast("order.placed", 1, into=["noted"])(lambda old: As("noted", {"text": old["customer"]}))
    assert read(events, {"customer": "ann"}) == [("noted", Noted("ann"))]


def test_a_part_goes_on_with_the_upcasters_of_its_type_and_version():
    events = of_models(2)
    events.register("noted", version=3)(Noted)
    events.upcast("noted", 1)(lambda old: {"txt": old["t"] + " 1"})
    events.upcast("noted", 2)(lambda old: {"text": old["txt"] + " 2"})
    parts = [As("noted", {"t": "a"}), As("noted", {"txt": "b"}, 2), As("noted", {"text": "c"}, version=3)]
    events.upcast("order.placed", 1, into=["noted"])(lambda old: parts)
    assert read(events, {}) == [("noted", Noted("a 1 2")), ("noted", Noted("b 2")), ("noted", Noted("c"))]


def test_parts_are_split_again_by_later_upcasters():
    events = of_models(3)
    events.upcast("order.placed", 1)(lambda old: [{"n": 1}, {"n": 2}, {"n": 3}])
    events.upcast("order.placed", 2)(
        lambda old: [{"customer": f"{old['n']}.{part}", "cents": 0} for part in range(old["n"] - 1)]
    )
    assert [placed.customer for _, placed in read(events, {})] == ["2.0", "3.0", "3.1"]


@pytest.mark.parametrize(
    ("made", "today"), [([[1, 2]], [Values([1, 2])]), ([None], [Values(None)]), (5, [Values(5)])]
)
def test_a_payload_that_is_a_list_or_null_is_given_as_the_only_part(made, today):
    events = EventRegistry()
    events.register("values", version=2)(Values)
    events.upcast("values", 1)(lambda old: made)
    assert [payload for _, payload in read(events, 0, "values")] == today


def test_parts_share_the_place_of_the_old_event_and_have_lasting_ids_of_their_own():
    events = of_models(2)
    events.upcast("order.placed", 1)(lambda old: [{"customer": name, "cents": 0} for name in "abc"])
    old = kept({}, actor="ann")
    parts = events.decode(old)
    assert parts[0].event_id == old.event_id
    assert len({part.event_id for part in parts}) == 3
    assert [part.event_id for part in events.decode(old)] == [part.event_id for part in parts]
    for part in parts:
        for name in ("stream_id", "version", "position", "occurred_at", "recorded_at", "metadata"):
            assert getattr(part, name) == getattr(old, name)


def test_parts_of_different_events_have_different_ids():
    events = of_models(2)
    events.upcast("order.placed", 1)(lambda old: [{"customer": name, "cents": 0} for name in "ab"])
    one, other = (EventEnvelope(ORDER, "order.placed", {}) for _ in range(2))
    assert len({part.event_id for old in (one, other) for part in events.decode(old)}) == 4


# Types that are no longer registered


def test_a_retired_type_becomes_others():
    events = of_models(2, noted=Noted)
    events.upcast("order.placed", 1)(lambda old: {**old, "cents": 1})
    events.upcast("order.drafted", 1)(lambda old: {"customer": old["name"]})

    @events.upcast("order.drafted", 2, into=["order.placed", "noted"])
    def replaced(old):
        return [As("order.placed", old), As("noted", {"text": "was a draft"})]

    assert read(events, {"name": "ann"}, "order.drafted") == [
        ("order.placed", Placed("ann", 1)),
        ("noted", Noted("was a draft")),
    ]


def test_a_retired_type_can_be_left_out():
    events = of_models()
    events.upcast("order.drafted", 1, into=[])(lambda old: None)
    assert read(events, {"any": "thing"}, "order.drafted") == []


def test_a_retired_type_can_go_through_another_one():
    events = of_models()
    events.upcast("a", 1, into=["b"])(lambda old: As("b", old))
    events.upcast("b", 1, into=["order.placed"])(lambda old: As("order.placed", old))
    assert read(events, {"customer": "ann", "cents": 3}, "a") == [("order.placed", Placed("ann", 3))]


def test_a_later_version_of_a_retired_type_is_unknown():
    events = of_models()
    events.upcast("order.drafted", 1, into=[])(lambda old: None)
    with pytest.raises(UnknownEventTypeError, match=r"'order.drafted' in schema version 2"):
        read(events, {}, "order.drafted", schema_version=2)


def test_the_names_to_look_for_are_those_of_all_that_may_become_the_type():
    events = EventRegistry()
    events.register("order.placed", version=2, aliases=["order.created"])(Placed)
    events.register("noted", aliases=["memo"])(Noted)
    events.upcast("order.placed", 1, into=["noted"])(lambda old: old)
    events.upcast("order.drafted", 1, into=["order.placed"])(lambda old: As("order.placed", old, 2))
    events.upcast("order.sketched", 1, into=["order.drafted"])(lambda old: As("order.drafted", old))
    events.upcast("order.lost", 1, into=[])(lambda old: None)
    placed = ["order.created", "order.drafted", "order.placed", "order.sketched"]
    assert events.names_of(Placed) == placed
    assert events.names_of(Noted) == sorted(["memo", "noted", *placed])
    for retired in ("order.drafted", "order.lost"):
        with pytest.raises(InvalidInputError, match="name the types that its events become"):
            events.names_of(retired)


# Registries that cannot be used


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_gap_is_told_with_what_fills_it(missing):
    events = of_models(4)
    for version in {1, 2, 3} - {missing}:
        events.upcast("order.placed", version)(lambda old: old)
    assert refusal(events) == (
        f"'order.placed' is at version 4, but nothing leads from version {missing} to {missing + 1}: "
        f"add @upcast('order.placed', {missing})"
    )
    events.upcast("order.placed", missing)(lambda old: old)
    assert read(events, {"customer": "ann", "cents": 3}) == [("order.placed", Placed("ann", 3))]


def test_an_upcaster_beyond_the_registered_version_is_told():
    events = of_models(2)
    for version in (1, 2):
        events.upcast("order.placed", version)(lambda old: old)
    assert refusal(events) == (
        "'order.placed' is registered at version 2, but has an upcaster from version 2: "
        "raise the version of the registration"
    )


def test_an_alias_has_no_upcasters_of_its_own():
    events = EventRegistry()
    events.register("order.placed", version=2, aliases=["order.created"])(Placed)
    events.upcast("order.placed", 1)(lambda old: old)
    events.upcast("order.created", 1)(lambda old: old)
    assert refusal(events) == (
        "'order.created' is an alias of 'order.placed': make its upcasters those of 'order.placed'"
    )


def test_a_part_must_be_of_a_registered_type():
    events = of_models(2)
    events.upcast("order.placed", 1, into=["noted"])(lambda old: old)
    assert refusal(events) == (
        "upcasters of 'order.placed' go into 'noted', which is not registered: register it, or say what "
        "it is called today"
    )
    events.register("noted")(Noted)
    events.check()


def test_a_type_that_is_not_registered_must_end_in_others():
    events = of_models()
    events.upcast("order.drafted", 1)(lambda old: old)
    assert refusal(events) == (
        "'order.drafted' has upcasters, but is not registered: register it, or say what its events become "
        "(into=[...], or into=[] to leave them out)"
    )
    events.upcast("order.drafted", 2, into=["order.placed"])(lambda old: As("order.placed", old))
    assert len(read(events, {"customer": "ann", "cents": 3}, "order.drafted")) == 1


@pytest.mark.parametrize("versions", [(2,), (1, 3)])
def test_a_retired_type_with_a_gap_is_told(versions):
    events = of_models()
    for version in versions:
        events.upcast("order.drafted", version, into=[])(lambda old: old)
    assert refusal(events) == (
        f"'order.drafted' has upcasters from versions {list(versions)} only: add those that are missing"
    )


def test_a_circle_is_told_in_its_direction():
    events = of_models(2, b=Noted)
    events.upcast("order.placed", 1, into=["a"])(lambda old: old)
    events.upcast("a", 1, into=["c"])(lambda old: old)
    events.upcast("c", 1, into=["order.placed", "b"])(lambda old: old)
    reason = refusal(events)
    way = "order.placed -> a -> c -> order.placed"
    turns = [way, "a -> c -> order.placed -> a", "c -> order.placed -> a -> c"]
    assert any(f"upcasters go round in a circle: {turn}. Let one of them" in reason for turn in turns)


def test_a_type_does_not_go_into_itself():
    events = of_models(2)
    events.upcast("order.placed", 1, into=["order.placed"])(lambda old: old)
    assert "order.placed -> order.placed" in refusal(events)
    assert "parts of its own type need no As and no into" in refusal(events)


def test_a_registry_is_checked_again_after_every_change():
    events = of_models()
    assert len(read(events, {"customer": "ann", "cents": 3})) == 1
    events.upcast("order.placed", 1)(lambda old: old)
    assert "raise the version" in refusal(events)

    events = of_models()
    events.check()
    events.register("noted", version=2)(Noted)
    assert "nothing leads from version 1" in refusal(events)


def test_a_version_has_one_upcaster():
    events = of_models(2)
    events.upcast("order.placed", 1)(lambda old: old)
    with pytest.raises(RegistryError, match=r"'order.placed' has two upcasters from version 1; keep one"):
        events.upcast("order.placed", 1)(lambda old: None)
    assert len(read(events, {"customer": "ann", "cents": 3})) == 1


@pytest.mark.parametrize("into", ["noted", 5])
def test_into_is_a_list(into):
    with pytest.raises(RegistryError, match=f"into must be a list of names, not {into!r}"):
        of_models().upcast("order.placed", 1, into=into)(lambda old: old)


def test_names_in_into_are_names():
    with pytest.raises(InvalidInputError, match="every one of into must be a string"):
        of_models().upcast("order.placed", 1, into=[Noted])(lambda old: old)


def test_an_upcaster_is_a_plain_function():
    async def asynchronous(old):
        return old

    def generator(old):
        yield old

    for function in (asynchronous, generator):
        with pytest.raises(RegistryError, match="from version 1 must be a plain function"):
            of_models(2).upcast("order.placed", 1)(function)


# Upcasters that fail


def decode_error(events, payload=None, **metadata):
    with pytest.raises(EventDecodeError) as error:
        events.decode(kept({} if payload is None else payload, **metadata))
    assert (error.value.stream_id, error.value.version) == (ORDER, 3)
    return error.value


def test_an_upcaster_that_raises_is_named_and_its_error_is_the_cause():
    events = of_models(3)
    events.upcast("order.placed", 1)(lambda old: old)
    events.upcast("order.placed", 2)(lambda old: int(old["cents"]))
    error = decode_error(events, {"cents": "s3cret"})
    assert str(error) == (
        "version 3 of order-o-1 cannot be read as 'order.placed': the upcaster of 'order.placed' from "
        "version 2 raised ValueError"
    )
    assert isinstance(error.__cause__, ValueError)
    assert "int(old" in "".join(traceback.format_exception(error))


def test_what_does_not_fit_after_the_upcasters_names_the_field():
    events = of_models(2, noted=Noted)
    events.upcast("order.placed", 1, into=["noted"])(lambda old: [old, As("noted", {"text": 5})])
    assert decode_error(events).fields == ("customer", "cents")
    error = decode_error(events, {"customer": "ann", "cents": 1})
    assert (error.event_type, error.fields) == ("noted", ("text",))


def test_a_part_of_a_type_that_was_not_declared_is_refused():
    events = of_models(2, noted=Noted)
    events.upcast("order.placed", 1)(lambda old: As("noted", {"text": "a"}))
    assert decode_error(events).reason == (
        "the upcaster of 'order.placed' from version 1 made a 'noted'; declare it: into=['noted']"
    )


@pytest.mark.parametrize("version", [0, 2, 7, None])
def test_a_part_in_a_version_that_is_not_registered_is_refused(version):
    events = of_models(2, noted=Noted)
    events.upcast("order.placed", 1, into=["noted"])(lambda old: As("noted", {"text": "a"}, version))
    for unknown in ("error", "skip", "raw"):
        with pytest.raises(EventDecodeError, match=f"upcasters made 'noted' in version {version}, which is"):
            events.decode(kept({}), unknown)


def test_a_retired_type_that_does_not_end_is_refused():
    events = of_models()
    events.upcast("order.drafted", 1, into=[])(lambda old: old)
    with pytest.raises(EventDecodeError, match=r"upcasters made 'order.drafted' in version 2, which is not"):
        events.decode(kept({}, "order.drafted"))


def test_what_an_upcaster_makes_must_be_json():
    events = of_models(2)
    events.upcast("order.placed", 1)(lambda old: {"customer": object(), "cents": 1})
    assert decode_error(events).fields == ("customer",)
    events = EventRegistry()
    events.register("order.placed", version=2)(Either)
    events.upcast("order.placed", 1)(lambda old: {"key": object()})
    assert "it is not JSON: Unable to serialize unknown type: <class 'object'>" in str(decode_error(events))


# The same by hand


NAMES = ["a", "b", "c"]


@st.composite
def evolutions(draw):
    """Versions of three types, and what each upcaster makes: a list of (type, version) per part.

    A part goes on in the next version of its type, or becomes one of a type further down the list.
    """
    versions = {name: draw(st.integers(1, 4)) for name in NAMES}
    made = {}
    for place, name in enumerate(NAMES):
        for version in range(1, versions[name]):
            others = [
                (other, number) for other in NAMES[place + 1 :] for number in range(1, versions[other] + 1)
            ]
            parts = st.sampled_from([(name, version + 1), *others])
            made[name, version] = draw(st.lists(parts, max_size=3))
    return versions, made


def by_hand(versions, made, name, version, trace):
    """What an event becomes: name and the way it came, of each part."""
    if version == versions[name]:
        return [(name, trace)]
    parts = []
    for number, (other, following) in enumerate(made[name, version]):
        parts += by_hand(versions, made, other, following, [*trace, f"{name}{version}.{number}"])
    return parts


def upcaster(name, version, parts):
    def upcast(old):
        made = [
            (other, following, [*old["trace"], f"{name}{version}.{number}"])
            for number, (other, following) in enumerate(parts)
        ]
        return [
            {"trace": trace} if other == name else As(other, {"trace": trace}, following)
            for other, following, trace in made
        ]

    return upcast


@given(evolutions(), st.data())
def test_a_chain_of_upcasters_is_their_composition(evolution, data):
    versions, made = evolution
    events = EventRegistry()
    for name in NAMES:
        model = dataclass(type(f"Model{name}", (), {"__annotations__": {"trace": list[str]}}))
        events.register(name, version=versions[name])(model)
    for (name, version), parts in made.items():
        into = {other for other, _ in parts} - {name}
        events.upcast(name, version, into=into)(upcaster(name, version, parts))
    name = data.draw(st.sampled_from(NAMES))
    version = data.draw(st.integers(1, versions[name]))
    payload = decode(encode({"trace": []}))
    today = events.decode(kept(payload, name, schema_version=version))
    assert [(part.event_type, part.payload.trace) for part in today] == by_hand(
        versions, made, name, version, []
    )
    assert all(part.event_type in NAMES and name in events.names_of(part.event_type) for part in today)
    assert len({part.event_id for part in today}) == len(today)


def test_an_upcaster_that_forgets_to_return_does_not_lose_the_event():
    events = of_models(2)
    events.upcast("order.placed", 1)(lambda old: old.update(cents=1))
    with pytest.raises(EventDecodeError, match="returned None"):
        read(events, {"customer": "ann"})
