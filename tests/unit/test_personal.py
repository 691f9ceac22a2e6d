"""Personal fields: marked where a model is dumped for sealing, found at any depth, and checked early."""

import collections
import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar
from uuid import UUID

import pydantic
import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    PlainValidator,
    RootModel,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    WrapSerializer,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticSerializationError
from typing_extensions import TypeAliasType, TypedDict

from k1s0_event_store import ConfigurationError
from k1s0_event_store.personal import MARK, SEALING, Personal, check_personal, has_personal, is_open_mark

T = TypeVar("T")
OfCustomer = Personal(subject="customer_id")
Name = Annotated[str, OfCustomer]
ALIAS = TypeAliasType("ALIAS", Name)


class Customer(BaseModel):
    customer_id: str
    name: Name


@dataclasses.dataclass
class CustomerData:
    customer_id: str
    name: Name


@pydantic.dataclasses.dataclass
class CustomerRecord:
    customer_id: str
    name: Name


class CustomerDict(TypedDict):
    customer_id: str
    name: Name


class Address(BaseModel):
    street: str
    built: date


class Box(BaseModel, Generic[T]):
    customer_id: str
    content: T


class Node(BaseModel):
    customer_id: str
    name: Name
    below: list["Node"] = []


def marks(event_type, event, **options):
    """The dump for sealing, each open mark as (subject, value)."""

    def shown(value):
        if isinstance(value, dict):
            if value.keys() == {MARK}:
                content = value[MARK]
                assert is_open_mark(content)
                return content["subject"], content["value"]
            return {key: shown(each) for key, each in value.items()}
        return [shown(each) for each in value] if isinstance(value, list) else value

    adapter = TypeAdapter(event_type)
    return shown(adapter.dump_python(event, mode="json", context=SEALING, warnings="error", **options))


def refused(event_type):
    with pytest.raises(ConfigurationError) as error:
        check_personal(TypeAdapter(event_type))
    assert has_personal(TypeAdapter(event_type))
    return str(error.value)


def accepted(event_type):
    check_personal(TypeAdapter(event_type))
    return has_personal(TypeAdapter(event_type))


@pytest.mark.parametrize(
    ("event_type", "event"),
    [
        (Customer, Customer(customer_id="c", name="Ada")),
        (CustomerData, CustomerData("c", "Ada")),
        (CustomerRecord, CustomerRecord("c", "Ada")),
        (CustomerDict, {"customer_id": "c", "name": "Ada"}),
    ],
)
def test_a_personal_field_is_marked_with_its_subject(event_type, event):
    adapter = TypeAdapter(event_type)
    dumped = adapter.dump_python(event, mode="json", context=SEALING)
    content = dumped["name"][MARK]
    assert dumped["customer_id"] == "c"
    assert (content["subject"], content["value"], content["forgotten"]) == ("c", "Ada", "[forgotten]")
    assert is_open_mark(content)
    assert accepted(event_type)


@pytest.mark.parametrize("context", [None, {}, {"k1s0_sealing": True}, dict(SEALING), [SEALING], True])
def test_any_other_dump_is_as_always(context):
    customer = Customer(customer_id="c", name="Ada")
    assert customer.model_dump(context=context) == {"customer_id": "c", "name": "Ada"}
    assert customer.model_dump_json(context=context) == '{"customer_id":"c","name":"Ada"}'
    assert TypeAdapter(Customer).dump_python(customer, context=context) == customer.model_dump()


def test_validation_and_json_schema_are_as_always():
    class Plain(BaseModel):
        customer_id: str
        name: str

    assert Customer.model_validate({"customer_id": "c", "name": "Ada"}).name == "Ada"
    with pytest.raises(ValidationError):
        Customer(customer_id="c", name=5)
    for mode in ("validation", "serialization"):
        schemas = [model.model_json_schema(mode=mode) for model in (Customer, Plain)]
        assert schemas[0]["properties"] == schemas[1]["properties"]


@pytest.mark.parametrize(
    ("content", "value", "expected"),
    [
        (Name, "Ada", ("c", "Ada")),
        (Optional[Name], "Ada", ("c", "Ada")),  # noqa: UP045 - the form that is tested
        (Name | None, "Ada", ("c", "Ada")),
        (Annotated[str | None, OfCustomer], "Ada", ("c", "Ada")),
        (ALIAS, "Ada", ("c", "Ada")),
        (list[Name], ["Ada", "Bob"], [("c", "Ada"), ("c", "Bob")]),
        (tuple[Name, int], ("Ada", 1), [("c", "Ada"), 1]),
        (tuple[Name, ...], ("Ada",), [("c", "Ada")]),
        (Sequence[Name], ["Ada"], [("c", "Ada")]),
        (deque[Name], deque(["Ada"]), [("c", "Ada")]),
        (set[Name], {"Ada"}, [("c", "Ada")]),
        (dict[str, Name], {"k": "Ada"}, {"k": ("c", "Ada")}),
        (Mapping[str, Name], {"k": "Ada"}, {"k": ("c", "Ada")}),
        (collections.OrderedDict[str, Name], collections.OrderedDict(k="Ada"), {"k": ("c", "Ada")}),
        (collections.defaultdict[str, list[Name]], {"k": ["Ada"]}, {"k": [("c", "Ada")]}),
        (list[dict[str, list[Name]]], [{"k": ["Ada"]}], [{"k": [("c", "Ada")]}]),
        (int | Name, "Ada", ("c", "Ada")),
        (int | Name, 5, 5),
        (Annotated[list[str], Personal("customer_id", [])], ["Ada", "Bob"], ("c", ["Ada", "Bob"])),
        (Annotated[int, Personal("customer_id", 0)], 5, ("c", 5)),
        (Annotated[Decimal, Personal("customer_id", "0")], Decimal("1.50"), ("c", "1.50")),
        (Annotated[date, Personal("customer_id", "1900-01-01")], date(2026, 1, 2), ("c", "2026-01-02")),
        (Annotated[date, Personal("customer_id", date(1900, 1, 1))], date(2026, 1, 2), ("c", "2026-01-02")),
        (Annotated[dict[str, Any], Personal("customer_id", {})], {"a": [1]}, ("c", {"a": [1]})),
        (Annotated[Any, OfCustomer], {"a": [1]}, ("c", {"a": [1]})),
        (Annotated[str, PlainSerializer(str.upper), OfCustomer], "Ada", ("c", "ADA")),
        (Annotated[str, WrapSerializer(lambda v, nxt: nxt(v) + "!"), OfCustomer], "Ada", ("c", "Ada!")),
        (Annotated[str, PlainValidator(str), OfCustomer], "Ada", ("c", "Ada")),
        (Annotated[str, OfCustomer, PlainValidator(str)], "Ada", ("c", "Ada")),
        (Annotated[str, OfCustomer, AfterValidator(str.strip)], "Ada", ("c", "Ada")),
        (Annotated[str, OfCustomer, Field(max_length=20, title="t")], "Ada", ("c", "Ada")),
        (
            Annotated[Address, Personal("customer_id", {"street": "", "built": "1900-01-01"})],
            Address(street="s", built=date(2026, 1, 2)),
            ("c", {"street": "s", "built": "2026-01-02"}),
        ),
    ],
)
def test_a_value_of_any_shape_is_marked_where_it_stands(content, value, expected):
    event_type = Box[content]
    assert accepted(event_type)
    assert marks(event_type, event_type(customer_id="c", content=value)) == {
        "customer_id": "c",
        "content": expected,
    }


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (Customer, Customer(customer_id="inner", name="Ada")),
        (CustomerData, CustomerData("inner", "Ada")),
        (CustomerRecord, CustomerRecord("inner", "Ada")),
        (CustomerDict, {"customer_id": "inner", "name": "Ada"}),
        (Customer | CustomerDict, {"customer_id": "inner", "name": "Ada"}),
        (CustomerDict | Customer | None, Customer(customer_id="inner", name="Ada")),
    ],
)
@pytest.mark.parametrize("outer", [Box, "dataclass", "dict"])
def test_the_subject_is_that_of_the_model_which_holds_the_field(outer, content, value):
    fields = {"customer_id": str, "content": list[content], "name": Name}
    if outer == "dataclass":
        event_type = dataclasses.make_dataclass("Outer", fields.items())
        event = event_type("outer", [value, value], "Bob")
    elif outer == "dict":
        event_type = TypedDict("event_type", fields)
        event = {"customer_id": "outer", "content": [value, value], "name": "Bob"}
    else:
        event_type = Box[tuple[list[content], Name]]
        event = event_type.model_construct(customer_id="outer", content=([value, value], "Bob"))
    assert accepted(event_type)
    dumped = marks(event_type, event)
    inner = {"customer_id": "inner", "name": ("inner", "Ada")}
    assert (dumped["content"] if outer != Box else dumped["content"][0]) == [inner, inner]
    assert (dumped["name"] if outer != Box else dumped["content"][1]) == ("outer", "Bob")


def test_models_that_hold_themselves_are_marked_at_every_level():
    assert accepted(Node)
    tree = Node(customer_id="a", name="Ada", below=[Node(customer_id="b", name="Bob")])
    assert marks(Node, tree) == {
        "customer_id": "a",
        "name": ("a", "Ada"),
        "below": [{"customer_id": "b", "name": ("b", "Bob"), "below": []}],
    }


@pytest.mark.parametrize(
    ("subject", "text"),
    [("c", "c"), (UUID(int=1), str(UUID(int=1))), (5, "5"), (0, "0"), (-7, "-7"), ("x" * 255, "x" * 255)],
)
def test_a_subject_is_a_text_a_uuid_or_a_number(subject, text):
    class Event(BaseModel):
        owner: str | UUID | int
        name: Annotated[str, Personal(subject="owner")]

    assert marks(Event, Event.model_construct(owner=subject, name="Ada"))["name"] == (text, "Ada")


class Kind(Enum):
    A = "a"


@pytest.mark.parametrize("subject", [None, True, 1.5, "", "x" * 256, "nul\x00", ["c"], Kind.A, b"c", ...])
@pytest.mark.parametrize("shape", ["model", "dict", "dict in a union"])
def test_a_field_whose_subject_is_missing_is_marked_with_the_problem(subject, shape):
    given = {"name": "Ada"} if subject is ... else {"customer_id": subject, "name": "Ada"}

    class Sloppy(TypedDict, total=False):
        customer_id: Any
        name: Name

    class Event(BaseModel):
        customer_id: Any
        name: Name

    if shape == "model":
        event_type, event, field = Event, Event.model_construct(**given), "Event.name"
        given.setdefault("customer_id", None)
        event = Event.model_construct(**given)
    else:
        event_type, event, field = Sloppy if shape == "dict" else Sloppy | int, given, "dict.name"
    dumped = TypeAdapter(event_type).dump_python(event, mode="python", context=SEALING, warnings=False)
    content = dumped["name"][MARK]
    assert is_open_mark(content)
    assert content["problem"].startswith(f"{field} is personal data of nobody: 'customer_id', the id of")
    assert "Ada" not in content["problem"]


def test_a_field_without_a_value_is_not_marked_and_needs_no_subject():
    class Event(BaseModel):
        customer_id: str | None
        name: Name | None
        nick: Annotated[str | None, OfCustomer]

    assert marks(Event, Event(customer_id=None, name=None, nick=None)) == {
        "customer_id": None,
        "name": None,
        "nick": None,
    }


def test_a_subject_may_itself_be_personal():
    class Event(BaseModel):
        email: Annotated[str, Personal(subject="email")]

    assert accepted(Event)
    assert marks(Event, Event(email="a@b")) == {"email": ("a@b", "a@b")}


def test_names_by_which_fields_are_stored_do_not_matter():
    class Event(BaseModel):
        customer_id: str = Field(alias="customerId")
        name: Name = Field(serialization_alias="Name")

    assert accepted(Event)
    dumped = marks(Event, Event(customerId="c", name="Ada"), by_alias=True, round_trip=True)
    assert dumped == {"customerId": "c", "Name": ("c", "Ada")}


def test_fields_may_have_names_that_schemas_use_themselves():
    class Odd(BaseModel):
        type: str
        metadata: Annotated[str, Personal(subject="type")]
        default: Annotated[str, Personal(subject="type")] = "d"
        serialization: Annotated[str, Personal(subject="default")] = "s"

    class Tagged(BaseModel):
        content: Annotated[
            Annotated[Customer, pydantic.Tag("metadata")] | Annotated[int, pydantic.Tag("default")],
            pydantic.Discriminator(lambda _value: "metadata"),
        ]

    assert accepted(Odd)
    assert marks(Odd, Odd(type="t", metadata="m")) == {
        "type": "t",
        "metadata": ("t", "m"),
        "default": ("t", "d"),
        "serialization": ("d", "s"),
    }
    assert accepted(Tagged)


def test_serializers_of_a_whole_model_may_wrap():
    class Event(Customer):
        @model_serializer(mode="wrap")
        def extended(self, dump):
            return {**dump(self), "more": 1}

    assert accepted(Event)
    assert marks(Event, Event(customer_id="c", name="Ada")) == {
        "customer_id": "c",
        "name": ("c", "Ada"),
        "more": 1,
    }


class Plain(BaseModel):
    customer_id: str
    name: str


class Nothing(BaseModel):
    pass


@pytest.mark.parametrize(
    "event_type", [Plain, Nothing, int, list[dict[str, Any]], Literal["Personal"], Any, Plain | None]
)
def test_a_type_without_personal_fields_is_known_as_such(event_type):
    assert not accepted(event_type)


@pytest.mark.parametrize(
    "event_type",
    [
        list[Customer],
        dict[str, tuple[int, Customer]],
        Customer | int,
        CustomerDict | None,
        Box[Box[list[CustomerData]]],
        Iterable[Customer],
        type("Child", (Customer,), {}),
    ],
)
def test_personal_fields_are_found_at_any_depth(event_type):
    assert accepted(event_type)


def test_a_type_that_is_built_later_is_looked_at_when_it_is():
    class Later(BaseModel):
        model_config = ConfigDict(defer_build=True)
        customer_id: str
        name: Name

    assert accepted(Later)


def test_a_subject_that_no_field_has_is_refused_with_those_there_are():
    class Event(BaseModel):
        order_id: str
        name: Name

    assert refused(Event) == (
        "Event.name is personal data of 'customer_id', but Event has no such field: "
        "give Personal() one of name, order_id"
    )


def test_the_subject_of_an_outer_model_does_not_count():
    class Inner(BaseModel):
        name: Name

    assert "Inner.name is personal data of 'customer_id', but Inner has no" in refused(Box[Inner])
    assert "has no such field" in refused(Box[RootModel[Name]])


class Pair(NamedTuple):
    customer_id: str
    name: Name


class Shouting(Customer):
    @field_serializer("name")
    def shout(self, name):
        return name.upper()


class Quiet(Customer):
    name: Name = ""

    @field_serializer("name")
    def whisper(self, name):
        return name.lower()


class Wrapping(Customer):
    @field_serializer("name", mode="wrap")
    def shout(self, name, dump):
        return dump(name)


class Flat(Customer):
    @model_serializer
    def flat(self):
        return self.name


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Name]
    customer_id: str


@pytest.mark.parametrize(
    ("event_type", "obstacle"),
    [
        (Name, "a value outside of a model is personal data of 'customer_id', but nothing has no such field"),
        (list[Name], "outside of a model"),
        (Box[dict[Name, int]], "in the key of a dict"),
        (Box[Json[Name]], "in a 'json'"),
        (Box[Pair], "collection there"),
        (Pair, "collection there"),
        (Extra, "in the type of extra fields"),
        (Shouting, "Shouting.name cannot be encrypted: Personal() stands under another serializer"),
        (Quiet, "under another serializer"),
        (Wrapping, "under another serializer"),
        (Flat, "under another serializer"),
        (Box[Flat], "under another serializer"),
        (Box[Annotated[Customer, PlainSerializer(str)]], "under another serializer"),
        (Box[Annotated[str, OfCustomer, PlainSerializer(str)]], "under another serializer"),
        (Box[Annotated[str, OfCustomer, WrapSerializer(lambda v, nxt: nxt(v))]], "under another serializer"),
        (Box[SerializeAsAny[Customer]], "under another serializer"),
        (Box[Annotated[dict[str, Customer], Personal("customer_id", {})]], "inside another personal field"),
        (Box[Annotated[list[Name], Personal("customer_id", [])]], "inside another personal field"),
    ],
)
def test_a_field_that_could_not_be_encrypted_is_refused(event_type, obstacle):
    assert obstacle in refused(event_type)


def test_a_computed_field_may_be_personal():
    class Event(Customer):
        @computed_field
        def shout(self) -> Name:
            return self.name.upper()

    assert accepted(Event)
    dumped = marks(Event, Event(customer_id="c", name="Ada"))
    assert dumped["shout"] == ("c", "ADA")


def test_two_marks_on_one_field_are_refused():
    with pytest.raises(ConfigurationError, match=r"a field has one Personal\(\): content has two"):
        TypeAdapter(Box[Annotated[Name, Personal("customer_id")]])


def _needs_at(value):
    if "@" not in value:
        raise ValueError("no @")
    return value


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    customer_id: str
    age: Annotated[int, Personal("customer_id", "0")]


class Checked(Customer):
    @field_validator("name")
    @classmethod
    def check(cls, name):
        return _needs_at(name)


class Fragile(Customer):
    @field_validator("name")
    @classmethod
    def check(cls, name):
        return name.split("@")[1]


@pytest.mark.parametrize(
    "event_type",
    [
        Box[Annotated[date, OfCustomer]],
        Box[Annotated[date, OfCustomer] | None],
        Box[list[Annotated[int, OfCustomer]]],
        Box[Annotated[int, Personal("customer_id", None)]],
        Box[Annotated[str, OfCustomer, Field(max_length=5)]],
        Box[Annotated[str, Field(pattern="^A"), OfCustomer]],
        Box[Annotated[str, OfCustomer, AfterValidator(_needs_at)]],
        Box[Annotated[str, AfterValidator(_needs_at), OfCustomer]],
        Box[Annotated[Literal["a", "b"], OfCustomer]],
        Box[Annotated[list[Node], Personal("customer_id", [1])]],
        Strict,
        Checked,
        Fragile,
    ],
)
def test_what_is_read_instead_of_a_forgotten_value_must_fit_the_field(event_type):
    with pytest.raises(
        ConfigurationError, match=r"could not be read once .* give Personal\(\.\.\., forgotten"
    ):
        check_personal(TypeAdapter(event_type))


class NeedsAll(Customer):
    @field_validator("name")
    @classmethod
    def check(cls, name, info):
        return name + info.data["customer_id"]

    @model_validator(mode="after")
    def check_all(self):
        return self


@pytest.mark.parametrize(
    "event_type",
    [
        Box[Annotated[date | None, Personal("customer_id", None)]],
        Box[Annotated[date, Personal("customer_id", "1900-01-01")] | None],
        Box[Annotated[str, Personal("customer_id", "a@b"), AfterValidator(_needs_at)]],
        Box[Annotated[Kind, Personal("customer_id", "a")]],
        Box[Annotated[Literal["a", "b"], Personal("customer_id", "b")]],
        NeedsAll,
    ],
)
def test_what_fits_is_accepted(event_type):
    assert accepted(event_type)


@pytest.mark.parametrize("subject", ["", None, 5, b"customer_id"])
def test_a_marker_needs_the_name_of_a_field(subject):
    with pytest.raises(ConfigurationError, match="the name of the field with the subject's id"):
        Personal(subject)


@pytest.mark.parametrize("forgotten", [float("nan"), "nul\x00", object()])
def test_what_is_read_instead_must_be_json(forgotten):
    with pytest.raises(ConfigurationError, match=r"forgotten=.* is not JSON"):
        Personal("customer_id", forgotten)


def test_markers_are_values():
    assert Personal("a") == Personal("a") != Personal("b")
    assert len({Personal("a", []), Personal("a", []), Personal("a")}) == 2


@pytest.mark.parametrize("content", [None, "text", {}, {"process": True}, {"process": "0" * 32}, []])
def test_nobody_else_can_make_an_open_mark(content):
    assert not is_open_mark(content)


def test_a_value_that_does_not_fit_a_union_is_an_error_and_not_dumped_as_it_is():
    adapter = TypeAdapter(CustomerDict | int)
    with pytest.raises(PydanticSerializationError):
        adapter.dump_python({"customer_id": "c", "name": 5}, mode="json", context=SEALING, warnings="error")
