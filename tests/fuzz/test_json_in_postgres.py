"""What is taken for JSON here is JSON to PostgreSQL, and comes back as the same text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k1s0_event_store.jsontext import as_written, encode

from .test_targets import changed, corpus

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.fixture
def keeps(sql):
    def keep(text):
        return sql("SELECT %s::text::json::text", text) == [(text,)]

    return keep


def test_text_that_is_taken_as_it_is_written_is_kept_as_it_is_written(keeps):
    @settings(max_examples=300, derandomize=True, database=None)
    @given(changed(corpus("json_text")) | VALUES.map(json.dumps).map(str.encode))
    def run(data):
        text = as_written(data)
        assert text is None or keeps(text)

    run()


def test_every_value_that_can_be_encoded_is_kept(keeps):
    @settings(max_examples=200, derandomize=True, database=None)
    @given(VALUES)
    def run(value):
        try:
            text = encode(value)
        except ValueError:
            return
        assert keeps(text)

    run()
