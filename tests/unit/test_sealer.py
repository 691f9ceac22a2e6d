"""The sealer: what is stored cannot be read without the keys, nor anywhere else than where it was."""

import base64
import copy
import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from k1s0_event_store import ConfigurationError, InvalidInputError, cipher
from k1s0_event_store.exceptions import PersonalDataError
from k1s0_event_store.keys import DataKey
from k1s0_event_store.memory import InMemoryKeyStore
from k1s0_event_store.personal import MARK, SEALING, Personal
from k1s0_event_store.sealer import (
    FORGOTTEN,
    STATE_MARK,
    Forgotten,
    Sealed,
    Sealer,
    Unsealed,
    is_sealed_state,
    state_key_ids,
)

E1, E2 = str(UUID(int=1)), str(UUID(int=2))
STATE = {"names": ["Ada Byron"], "count": 2, "nested": {"€": None}}


class Line(BaseModel):
    owner: str
    note: Annotated[str, Personal(subject="owner")]
    public: Any = None


class Order(BaseModel):
    customer_id: str
    name: Annotated[str | None, Personal(subject="customer_id")] = None
    age: Annotated[int, Personal(subject="customer_id", forgotten=0)] = 7
    tags: list[Annotated[str, Personal(subject="customer_id")]] = []
    extra: Annotated[Any, Personal(subject="customer_id", forgotten=None)] = None
    lines: list[Line] = []
    public: Any = None
    by_key: dict[str, Line] = Field(default={})


class CountingKeys(InMemoryKeyStore):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    async def for_subjects(self, subjects: Collection[str]) -> Mapping[str, DataKey]:
        self.calls.append(("for_subjects", sorted(subjects)))
        return await super().for_subjects(subjects)

    async def find(self, key_ids: Collection[str]) -> Mapping[str, DataKey]:
        self.calls.append(("find", sorted(key_ids)))
        return await super().find(key_ids)


@pytest.fixture
def keys():
    return CountingKeys()


@pytest.fixture
def sealer(keys):
    return Sealer(keys)


def dump(event):
    return event.model_dump(mode="json", context=SEALING)


def stored(value):
    """What comes back from the database."""
    return json.loads(json.dumps(value))


async def seal(sealer, event, event_id=E1):
    (sealed,) = await sealer.seal([(event_id, dump(event))])
    return stored(sealed.payload)


async def unseal(sealer, payload, event_id=E1):
    (unsealed,) = await sealer.unseal([(event_id, payload)])
    return unsealed


ORDER = Order(
    customer_id="ada",
    name="Ada Lovelace",
    age=36,
    tags=["first", "second"],
    extra={"deepest": ["Ada", None, 1.5, 2**70]},
    lines=[Line(owner="bob", note="for Bob"), Line(owner="ada", note="for Ada", public={"x": [1]})],
    public={"total": 12, "nested": [{"a": None}]},
    by_key={"a.b[0]": Line(owner="bob", note="dotted")},
)


async def test_a_sealed_event_holds_nothing_personal_and_reads_as_before(sealer, keys):
    (sealed,) = await sealer.seal([(E1, dump(ORDER))])
    text = json.dumps(sealed.payload)
    assert not any(word in text for word in ("Lovelace", "first", "second", "deepest", "for Bob", "dotted"))
    made = await keys.for_subjects(["ada", "bob"])
    assert set(sealed.key_ids) == {key.key_id for key in made.values()}
    assert sealed.payload["public"] == ORDER.public
    assert sealed.payload["customer_id"] == "ada"
    assert sealed.payload["lines"][0]["owner"] == "bob"

    unsealed = await unseal(sealer, stored(sealed.payload))
    assert unsealed == Unsealed(ORDER.model_dump(mode="json"), sealed.key_ids, False)
    assert Order.model_validate(unsealed.payload) == ORDER


async def test_what_is_stored_names_key_and_replacement(sealer, keys):
    payload = await seal(sealer, ORDER)
    assert payload["age"].keys() == {MARK}
    content = payload["age"][MARK]
    key = (await keys.for_subjects(["ada"]))["ada"]
    assert content.keys() == {"key", "forgotten", "data"}
    assert (content["key"], content["forgotten"]) == (key.key_id, 0)
    assert len(base64.b64decode(content["data"], validate=True)) == 12 + len("36") + 16
    assert payload["lines"][0]["note"][MARK]["key"] != key.key_id


async def test_the_payload_that_was_given_is_only_read(sealer):
    dumped = dump(ORDER)
    before = copy.deepcopy(dumped)
    (sealed,) = await sealer.seal([(E1, dumped)])
    assert dumped == before
    before = copy.deepcopy(sealed.payload)
    (unsealed,) = await sealer.unseal([(E1, sealed.payload)])
    assert sealed.payload == before
    unsealed.payload["public"]["nested"].clear()
    assert sealed.payload == before


async def test_the_same_value_is_never_stored_the_same(sealer):
    payloads = [await seal(sealer, Order(customer_id="ada", tags=["x", "x"])) for _ in range(2)]
    data = {tag[MARK]["data"] for payload in payloads for tag in payload["tags"]}
    assert len(data) == 4


async def test_a_batch_asks_for_its_keys_once(sealer, keys):
    events = [
        (E1, dump(ORDER)),
        (E2, dump(Order(customer_id="eve", name="Eve"))),
        (str(uuid4()), {"plain": 1}),
    ]
    sealed = await sealer.seal(events)
    assert keys.calls == [("for_subjects", ["ada", "bob", "eve"])]
    assert [len(each.key_ids) for each in sealed] == [2, 1, 0]
    keys.calls.clear()
    unsealed = await sealer.unseal([(i, s.payload) for (i, _), s in zip(events, sealed, strict=True)])
    assert keys.calls == [("find", sorted({i for each in sealed for i in each.key_ids}))]
    assert [each.key_ids for each in unsealed] == [each.key_ids for each in sealed]
    assert unsealed[2].payload == {"plain": 1}


@pytest.mark.parametrize("payload", [None, {}, [], 1, "text", {"a": [{"b": None}]}, {"name": None}])
async def test_without_marks_no_key_is_asked_for(sealer, keys, payload):
    assert await sealer.seal([(E1, payload)]) == [Sealed(payload, ())]
    assert await sealer.unseal([(E1, payload)]) == [Unsealed(payload, (), False)]
    assert await sealer.seal([]) == await sealer.unseal([]) == []
    assert keys.calls == []


async def test_a_forgotten_subject_reads_as_forgotten_and_others_as_before(sealer, keys):
    payload = await seal(sealer, ORDER)
    assert await keys.forget("ada")
    bob = (await keys.for_subjects(["bob"]))["bob"]
    unsealed = await unseal(sealer, payload)
    assert unsealed.forgotten
    assert unsealed.key_ids == (bob.key_id,)
    order = Order.model_validate(unsealed.payload)
    assert (order.name, order.age, order.tags, order.extra) == (
        "[forgotten]",
        0,
        ["[forgotten]", "[forgotten]"],
        None,
    )
    assert [line.note for line in order.lines] == ["for Bob", "[forgotten]"]
    assert order.public == ORDER.public


async def test_who_comes_back_after_being_forgotten_does_not_bring_the_past_back(sealer, keys):
    before = await seal(sealer, Order(customer_id="ada", name="Ada"))
    await keys.forget("ada")
    after = await seal(sealer, Order(customer_id="ada", name="Ada again"), E2)
    old, new = await unseal(sealer, before), await unseal(sealer, after, E2)
    assert (old.payload["name"], old.forgotten) == ("[forgotten]", True)
    assert (new.payload["name"], new.forgotten) == ("Ada again", False)


def moved_to_another_field(payload):
    payload["lines"][0]["note"], payload["lines"][1]["note"] = (
        payload["lines"][1]["note"],
        payload["lines"][0]["note"],
    )


def moved_to_another_index(payload):
    payload["tags"].reverse()


def moved_to_another_name(payload):
    payload["age"] = payload["name"]


def moved_to_another_key(payload):
    payload["by_key"] = {"a": {"b": payload["by_key"].pop("a.b[0]")}}


def moved_from_a_list_to_a_dict(payload):
    payload["tags"] = {"0": payload["tags"][0]}


def moved_to_a_name_cut_elsewhere(payload):
    payload["na"] = {"me": payload.pop("name")}


def with_another_key(payload):
    payload["name"][MARK]["key"] = payload["lines"][0]["note"][MARK]["key"]


def with_changed_data(payload):
    data = bytearray(base64.b64decode(payload["name"][MARK]["data"]))
    data[-1] ^= 1
    payload["name"][MARK]["data"] = base64.b64encode(data).decode()


def with_short_data(payload):
    payload["name"][MARK]["data"] = ""


def with_data_that_is_not_base64(payload):
    payload["name"][MARK]["data"] = "§" + payload["name"][MARK]["data"]


def with_something_else_under_the_mark(payload):
    payload["name"][MARK] = "Ada"


def with_a_number_for_a_key(payload):
    payload["name"][MARK]["key"] = 5


def with_a_list_for_data(payload):
    payload["name"][MARK]["data"] = []


def with_more_in_the_mark(payload):
    payload["name"][MARK]["more"] = 1


def with_less_in_the_mark(payload):
    del payload["name"][MARK]["forgotten"]


def with_more_beside_the_mark(payload):
    payload["name"]["more"] = 1


@pytest.mark.parametrize(
    "change",
    [
        moved_to_another_field, moved_to_another_index, moved_to_another_name, moved_to_another_key,
        moved_from_a_list_to_a_dict, moved_to_a_name_cut_elsewhere,
        with_another_key, with_changed_data, with_short_data, with_data_that_is_not_base64,
        with_something_else_under_the_mark, with_a_number_for_a_key, with_a_list_for_data,
        with_more_in_the_mark, with_less_in_the_mark, with_more_beside_the_mark,
    ],
)  # fmt: skip
async def test_what_was_moved_or_changed_is_refused_with_its_place(sealer, change):
    payload = await seal(sealer, ORDER)
    change(payload)
    with pytest.raises(PersonalDataError) as refused:
        await unseal(sealer, payload)
    assert refused.value.bound_to == f"event {E1}"
    assert refused.value.path in {
        "$.name", "$.na.me", "$.age", "$.tags[0]", "$.tags[1]", "$.tags.0",
        "$.lines[0].note", "$.lines[1].note", "$.by_key.a.b.note",
    }  # fmt: skip
    assert E1 in str(refused.value)
    assert refused.value.path in str(refused.value)
    assert "Lovelace" not in str(refused.value)


async def test_what_was_moved_to_another_event_is_refused(sealer):
    payload = await seal(sealer, Order(customer_id="ada", name="Ada"))
    with pytest.raises(PersonalDataError, match=rf"event {E2} at \$\.\w+ cannot be read"):
        await unseal(sealer, payload, E2)


async def test_a_dump_that_was_stored_without_being_sealed_is_refused(sealer):
    with pytest.raises(PersonalDataError, match="was not encrypted by a Sealer"):
        await unseal(sealer, stored(dump(Order(customer_id="ada", name="Ada"))))


def forged():
    """An open mark as another process, or a user of the app, would write it."""
    return {MARK: {"process": "0" * 32, "subject": "eve", "forgotten": None, "value": "x"}}


@pytest.mark.parametrize(
    "public", [{MARK: 1}, {MARK: None}, forged(), [{"deep": forged()}], {"a": 1, MARK: {"key": "k"}}]
)
async def test_data_of_the_app_cannot_pass_for_a_mark(sealer, keys, public):
    for event in (Order(customer_id="ada", public=public), Order(customer_id="ada", extra=public)):
        with pytest.raises(InvalidInputError, match=rf"event {E1}, \$\.\S+: the key '\{MARK}' is reserved"):
            await seal(sealer, event)
    assert keys.calls == []


async def test_something_personal_in_something_personal_is_refused(sealer):
    with pytest.raises(InvalidInputError, match="reserved"):
        await seal(sealer, Order(customer_id="ada", extra=Line(owner="bob", note="n")))


async def test_a_mark_with_more_beside_it_is_refused(sealer):
    payload = dump(Order(customer_id="ada", name="Ada"))
    payload["name"]["more"] = 1
    with pytest.raises(InvalidInputError, match="reserved"):
        await sealer.seal([(E1, payload)])


async def test_a_missing_subject_is_named_with_model_and_field(sealer, keys):
    event = Order.model_construct(customer_id=None, name="Ada")
    with pytest.raises(
        InvalidInputError,
        match=rf"event {E1}, \$\.name: Order\.name is personal data of nobody: 'customer_id'",
    ):
        await sealer.seal([(E1, event.model_dump(mode="json", context=SEALING, include={"name"}))])
    assert keys.calls == []


@pytest.mark.parametrize("value", [float("nan"), "nul\x00", {"a": float("inf")}])
async def test_what_is_not_json_is_refused_as_everywhere(sealer, value):
    payload = Order(customer_id="ada", extra=value).model_dump(mode="python", context=SEALING)
    with pytest.raises(InvalidInputError, match=rf"event {E1}, \$\.extra: not JSON"):
        await sealer.seal([(E1, payload)])


async def test_a_python_dump_is_sealed_as_well(sealer):
    payload = TypeAdapter(Order).dump_python(ORDER, context=SEALING)
    (sealed,) = await sealer.seal([(E1, payload)])
    assert Order.model_validate((await unseal(sealer, stored(sealed.payload))).payload) == ORDER


async def test_within_goes_to_the_key_store():
    class Joined(InMemoryKeyStore):
        def within(self, session):
            joined = Joined()
            joined.session = session
            return joined

    bound = Sealer(Joined()).within("a session")
    assert type(bound) is Sealer
    assert bound._keys.session == "a session"


def test_without_cryptography_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(cipher, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'k1s0-event-store\[personal\]'"):
        Sealer(InMemoryKeyStore())


characters = st.characters(codec="utf-8", exclude_characters="\x00")
texts = st.text(characters)
subjects = st.text(characters, min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(characters, max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)
orders = st.builds(
    Order,
    customer_id=subjects,
    name=st.none() | texts,
    age=st.integers(),
    tags=st.lists(texts, max_size=3),
    extra=json_values,
    lines=st.lists(st.builds(Line, owner=subjects, note=texts, public=json_values), max_size=3),
    public=json_values,
    by_key=st.dictionaries(texts, st.builds(Line, owner=subjects, note=texts), max_size=3),
)


@given(st.lists(orders, max_size=4), st.sets(subjects, max_size=2))
async def test_whatever_is_sealed_reads_as_before_until_its_subject_is_forgotten(events, gone):
    keys = InMemoryKeyStore()
    sealer = Sealer(keys)
    named = [(str(uuid4()), event) for event in events]
    sealed = await sealer.seal([(event_id, dump(event)) for event_id, event in named])
    again = [(event_id, stored(each.payload)) for (event_id, _), each in zip(named, sealed, strict=True)]
    for event, unsealed in zip(events, await sealer.unseal(again), strict=True):
        assert unsealed.payload == stored(event.model_dump(mode="json"))

    gone |= {event.customer_id for event in events[:1]}
    for subject in gone:
        await keys.forget(subject)
    for event, unsealed in zip(events, await sealer.unseal(again), strict=True):
        assert unsealed.payload == stored(_without(event, gone).model_dump(mode="json"))
        assert unsealed.forgotten == bool(gone & _subjects(event))


def _without(event, gone):
    forgotten = "[forgotten]"

    def line(each):
        return each.model_copy(update={"note": forgotten} if each.owner in gone else {})

    update: dict[str, Any] = {
        "lines": [line(each) for each in event.lines],
        "by_key": {key: line(each) for key, each in event.by_key.items()},
    }
    if event.customer_id in gone:
        update |= {
            "name": None if event.name is None else forgotten,
            "age": 0,
            "tags": [forgotten] * len(event.tags),
            "extra": None,
        }
    return event.model_copy(update=update)


def _subjects(event):
    return {event.customer_id, *(line.owner for line in [*event.lines, *event.by_key.values()])}


# States of snapshots


async def key_ids(keys, *subjects):
    return [key.key_id for key in (await keys.for_subjects(subjects)).values()]


async def test_a_sealed_state_reads_as_before(sealer, keys):
    ids = await key_ids(keys, "ada", "bob")
    sealed = stored(await sealer.seal_state(ids, "order-1 @ 5", STATE))
    assert is_sealed_state(sealed)
    assert "Ada Byron" not in json.dumps(sealed)
    assert sealed[STATE_MARK].keys() == {"keys", "data"}
    assert state_key_ids("order-1 @ 5", sealed) == sorted(ids)
    assert await sealer.unseal_state("order-1 @ 5", sealed) == STATE
    again = await sealer.seal_state([*reversed(ids), *ids], "order-1 @ 5", STATE)
    assert again[STATE_MARK]["keys"] == sorted(ids)
    assert again[STATE_MARK]["data"] != sealed[STATE_MARK]["data"]
    assert await sealer.unseal_state("order-1 @ 5", again) == STATE


@pytest.mark.parametrize("state", [None, 0, "text", [], {}, [1, {"a": None}], {MARK: {"any": 1}}])
async def test_any_json_can_be_a_state(sealer, keys, state):
    sealed = await sealer.seal_state(await key_ids(keys, "ada"), "s", state)
    assert await sealer.unseal_state("s", stored(sealed)) == state


@pytest.mark.parametrize("forgotten", ["ada", "bob"])
async def test_a_state_is_gone_with_any_of_its_subjects(sealer, keys, forgotten):
    ids = await key_ids(keys, "ada", "bob")
    sealed = await sealer.seal_state(ids, "s", STATE)
    await keys.forget(forgotten)
    assert await sealer.unseal_state("s", sealed) is FORGOTTEN is Forgotten.FORGOTTEN
    assert await sealer.seal_state(ids, "s", STATE) is FORGOTTEN
    assert not await sealer.still_known(ids)


async def test_a_state_of_nobody_stays_as_it_is(sealer, keys):
    assert await sealer.seal_state([], "s", STATE) is STATE
    assert not is_sealed_state(STATE)
    assert await sealer.still_known([])
    assert keys.calls == []
    with pytest.raises(InvalidInputError, match=r"one key '\$personal_state'"):
        await sealer.seal_state([], "s", {STATE_MARK: 1})


async def test_what_is_known_is_still_known(sealer, keys):
    ids = await key_ids(keys, "ada", "bob")
    assert await sealer.still_known(ids)
    assert await sealer.still_known([*ids, *ids])
    assert not await sealer.still_known([*ids, str(uuid4())])


async def test_a_state_cannot_be_read_for_something_else(sealer, keys):
    sealed = await sealer.seal_state(await key_ids(keys, "ada"), "order-1", STATE)
    with pytest.raises(PersonalDataError, match=r"personal data of order-2 at \$ cannot be read") as refused:
        await sealer.unseal_state("order-2", sealed)
    assert (refused.value.bound_to, refused.value.path) == ("order-2", "$")


async def test_a_state_needs_all_the_keys_it_was_sealed_with(sealer, keys):
    ids = await key_ids(keys, "ada", "bob", "eve")
    sealed = await sealer.seal_state(ids[:2], "s", STATE)
    for fewer in ([ids[0]], [ids[1]], ids, [ids[2], ids[1]]):
        with pytest.raises(PersonalDataError):
            await sealer.unseal_state("s", {STATE_MARK: {**sealed[STATE_MARK], "keys": fewer}})


@pytest.mark.parametrize(
    "change",
    [
        {"data": ""}, {"data": "§"}, {"data": None}, {"data": 5}, {"keys": None}, {"keys": []}, {"keys": [5]},
        {"keys": "text"}, None, "text",
    ],
)  # fmt: skip
async def test_a_state_that_was_changed_is_refused(sealer, keys, change):
    sealed = await sealer.seal_state(await key_ids(keys, "ada"), "s", STATE)
    content = {**sealed[STATE_MARK], **change} if isinstance(change, dict) else change
    with pytest.raises(PersonalDataError):
        await sealer.unseal_state("s", {STATE_MARK: content})


@pytest.mark.parametrize("value", [None, STATE, [STATE_MARK], {STATE_MARK: 1, "more": 2}, {MARK: 1}, "x"])
async def test_what_is_no_sealed_state_is_known_as_such(sealer, value):
    assert not is_sealed_state(value)
    with pytest.raises(PersonalDataError, match="it is no sealed state"):
        await sealer.unseal_state("s", value)


async def test_a_state_that_is_not_json_is_refused(sealer, keys):
    with pytest.raises(InvalidInputError, match="the state of order-1 cannot be sealed: not JSON"):
        await sealer.seal_state(await key_ids(keys, "ada"), "order-1", {"x": float("nan")})


async def test_a_value_of_a_field_is_no_state(sealer, keys):
    """Ciphertext of one kind can never be read as the other."""
    payload = await seal(sealer, Order(customer_id="ada", name="Ada"))
    content = payload["name"][MARK]
    with pytest.raises(PersonalDataError):
        await sealer.unseal_state(E1, {STATE_MARK: {"keys": [content["key"]], "data": content["data"]}})
