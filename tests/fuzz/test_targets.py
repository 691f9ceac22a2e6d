"""The targets of the fuzzer without the fuzzer: what is in the corpus, and what hypothesis makes of it."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .run import CORPUS
from .targets import TARGETS

SLOW = {"command_line": 30, "place_of_export": 100, "dsn": 120}
EXAMPLES = 250


@cache
def corpus(name):
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize(
    ("name", "data"),
    [pytest.param(name, data, id=f"{name}-{number}")
     for name in TARGETS for number, data in enumerate(corpus(name))],
)  # fmt: skip
def test_an_input_of_the_corpus_raises_nothing_strange(name, data):
    TARGETS[name](data)


@st.composite
def changed(draw, known):
    """An input of the corpus with a part of it replaced by any bytes, or by a part of another one."""
    data = draw(st.sampled_from(known))
    begin, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
    other = draw(st.sampled_from(known))
    cut = draw(st.integers(0, len(other)))
    return data[:begin] + draw(st.binary(max_size=20) | st.just(other[cut:])) + data[end:]


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_raises_anything_strange(name):
    @settings(max_examples=SLOW.get(name, EXAMPLES), derandomize=True, database=None)
    @given(changed(corpus(name)) | st.binary(max_size=200))
    def run(data):
        TARGETS[name](data)

    run()


def test_every_target_has_inputs_and_no_inputs_are_without_a_target():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
