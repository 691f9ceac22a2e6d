"""JSON text: nothing lost on the way in and out, and what cannot come back is refused."""

import dataclasses
import json
import math
import re
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from k1s0_event_store import CorruptDataError
from k1s0_event_store.jsontext import MAX_DIGITS, as_written, decode, encode, indented

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)


def shown(value):
    """The value without its address: a test has one name in all processes."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal


class Address(BaseModel):
    street: str
    since: date


def nested(depth, wrap):
    value = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@given(json_values)
def test_every_json_value_comes_back_as_it_was(value):
    again = decode(encode(value))
    assert again == value
    assert repr(again) == repr(value)  # 1, 1.0 and True are equal, -0.0 and 0.0 too


@given(json_values)
def test_the_text_is_json_to_other_readers_too(value):
    assert json.loads(encode(value)) == value


LOOKALIKES = [
    "NaN", "Infinity", "-Infinity", "nan", "\\u0000", "\\\\u0000", "a\\u0000b", '"NaN', "NaN,NaN",
    "\\", "\\\\", "9" * 10_000, "Infinity and \\u0000 in one text",
]  # fmt: skip


@pytest.mark.parametrize("text", LOOKALIKES)
@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: [t], lambda t: {t: 1}, lambda t: {"a": [{"b": t}]}],
    ids=["alone", "in a list", "as a key", "deep"],
)  # fmt: skip
def test_text_that_only_looks_like_something_refused_is_kept(text, wrap):
    assert decode(encode(wrap(text))) == wrap(text)


WRAPS = {
    "alone": lambda value: value,
    "in a list": lambda value: ["a", value],
    "in a tuple": lambda value: ("a", value),
    "in an object": lambda value: {"a": value},
    "deep": lambda value: {"a": [{"b": [[{"c": value}]]}]},
    "beside a text like it": lambda value: ["NaN", "\\u0000", "Infinity", value],
    "in a dataclass": lambda value: dataclasses.make_dataclass("D", ["x"])(value),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "NaN is no JSON number; use null or a string"),
        (math.inf, "Infinity is no JSON number"),
        (-math.inf, "-Infinity is no JSON number"),
        ("\x00", "cannot keep the character .u0000 in JSON; remove it"),
        ("before\x00after", "cannot keep the character .u0000"),
        ({"\x00": 1}, "cannot keep the character .u0000"),
        ({"a": {"key\x00": 1}}, "cannot keep the character .u0000"),
        ("\ud800", "surrogates not allowed"),
        ({"\udfff": 1}, "surrogates not allowed"),
        (object(), "Unable to serialize unknown type: <class 'object'>"),
        (int, "Unable to serialize unknown type"),
        (lambda: 1, "Unable to serialize unknown type"),
        (b"\xff", "invalid utf-8"),
    ],
    ids=shown,
)
def test_what_cannot_be_kept_is_refused_wherever_it_stands(wrap, value, reason):
    with pytest.raises(ValueError, match=f"^not JSON: .*{reason}"):
        encode(wrap(value))


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_too_long_to_be_read_back_are_refused(wrap, sign):
    with pytest.raises(ValueError, match=r"^not JSON: a number has more than 4300 digits; use a string"):
        encode(wrap(sign * 10**MAX_DIGITS))


def test_circular_references_are_refused():
    loop = []
    loop.append({"again": loop})
    with pytest.raises(ValueError, match=r"not JSON: .*Circular reference"):
        encode(loop)


def test_one_object_in_two_places_is_no_circle():
    shared = {"a": 1}
    assert decode(encode([shared, shared])) == [shared, shared]


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}], ids=["lists", "objects"])
@pytest.mark.parametrize("extra", [None, "NaN"], ids=["plain", "looked at closely"])
def test_every_depth_that_is_taken_can_be_read_back(wrap, extra):
    taken = []
    for depth in range(190, 310):
        value = [extra, nested(depth, wrap)]
        try:
            text = encode(value)
        except ValueError:
            continue
        assert decode(text) == value
        taken.append(depth)
    assert 200 in taken
    assert 309 not in taken


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_nesting_without_end_is_refused_and_not_a_crash(depth):
    with pytest.raises(ValueError, match=r"not JSON: .*depth"):
        encode(nested(depth, lambda value: [value]))


def test_an_error_in_the_values_own_code_is_a_refusal():
    def items():
        yield 1
        raise KeyError("gone")

    with pytest.raises(ValueError, match=r"not JSON: .*gone"):
        encode({"items": items()})


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+3"), "1E+3"),
        (Decimal("NaN"), "NaN"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), "2026-01-02T03:04:05.000678Z"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(days=1), "P1D"),
        (Colour.RED, "red"),
        (b"text", "text"),
        ((1, 2), [1, 2]),
        ({7}, [7]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        (Line("s-1", Decimal("9.99")), {"sku": "s-1", "price": "9.99"}),
        ([Line("s-1", Decimal(1))], [{"sku": "s-1", "price": "1"}]),
        (Address(street="Main", since=date(2020, 5, 1)), {"street": "Main", "since": "2020-05-01"}),
        ([Address(street="M", since=date(2020, 5, 1))], [{"street": "M", "since": "2020-05-01"}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_kept_as_pydantic_writes_them(value, kept):
    assert decode(encode(value)) == kept


@pytest.mark.parametrize("value", [2**53 + 1, 2**63, 2**64 + 1, 10**40 + 1, 10**400 + 7, 10**4300 - 1])
def test_big_integers_are_exact(value):
    again = decode(encode({"n": [value, -value]}))["n"]
    assert again == [value, -value]
    assert all(type(number) is int for number in again)


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 1e16, -0.0, 123456.7890123456])
def test_floats_keep_every_bit(value):
    assert decode(encode(value)).hex() == value.hex()


def test_a_megabyte_comes_back():
    value = {"text": "é😀\n" * 130_000, "numbers": list(range(100_000))}
    text = encode(value)
    assert len(text.encode()) > 1_000_000
    assert decode(text) == value


def test_what_is_given_is_only_read():
    value = {"b": [1, {"c": (2,)}], "a": {}}
    before = repr(value)
    encode(value)
    assert repr(value) == before


def test_decoded_values_are_never_shared():
    assert decode("{}") is not decode("{}")
    decode("{}")["a"] = 1
    assert decode("{}") == {}


@pytest.mark.parametrize("text", ["", "{", "nul", '{"a":}', "[" * 100_000, "1" * 5_000])
def test_stored_text_that_cannot_be_read_is_corrupt_data(text):
    with pytest.raises(CorruptDataError, match="stored JSON cannot be decoded"):
        decode(text)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "b": [1, {"c": "x, {y\\" }"}], "d": {}, "e": [], "f": [[]]}', '"a\\\\"', "[]", "-1.5e3"],
)
def test_indenting_changes_nothing_but_spaces(text):
    assert json.loads(indented(text)) == json.loads(text)


def test_json_that_is_cut_off_is_indented_up_to_there():
    assert indented('{"a": {"b": "x, {y\\') == '{\n  "a": {\n    "b": "x, {y\\'


def test_indenting_again_changes_nothing():
    once = indented('{"a":1.50,"b":[1,{"c":"x"}],"d":{}}')
    assert once == '{\n  "a": 1.50,\n  "b": [\n    1,\n    {\n      "c": "x"\n    }\n  ],\n  "d": {}\n}'
    assert indented(once) == once


@given(json_values, st.sampled_from([None, 2]))
def test_json_of_any_form_is_taken_as_it_is_written_or_looked_at_closely(value, indent):
    text = json.dumps(value, indent=indent).encode()
    kept = as_written(text)
    assert kept is None or (kept.encode(), decode(kept)) == (text, value)


@pytest.mark.parametrize(
    "text",
    [
        '{"b": 1.00, "a": [ ] }',
        "0.1000000000000000055511151231257827",
        "1e99",
        "9" * 308,
        '"\\u00e9"',
        "null",
    ],
    ids=lambda text: text[:20],
)
def test_what_is_written_in_another_way_is_kept(text):
    assert as_written(text.encode()) == text


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "[Infinity]", "-Infinity", "1e400", "1E+400", "-1e9999", f"{'9' * 309}.0", "9" * 4301),
        *('"\\u0000"', '{"\\u0000": 1}', '"\\ud800"', '"a\nb"', "[1", "1 2", "", "[" * 250 + "]" * 250),
    ],
    ids=lambda text: text[:20],
)
def test_what_may_not_be_read_back_is_not_kept_without_a_closer_look(text):
    assert as_written(text.encode()) is None


def test_what_is_no_unicode_is_not_kept():
    assert as_written(b'"\xff"') is None
