"""Data keys, wrapping keys and the encryption under them: bound to a place, and shown nowhere."""

import subprocess
import sys
from importlib import import_module

import pydantic
import pytest

from k1s0_event_store import ConfigurationError, CorruptDataError, InvalidInputError, cipher
from k1s0_event_store.cipher import KEY_BYTES, check_available, combined_key, decrypt, encrypt, new_key
from k1s0_event_store.keys import DataKey, WrappingKeys, new_data_key

OLD, NEW = b"o" * 32, b"n" * 32
PLAIN = b"Ada Lovelace"
PLACE = ("event", "e-1", "lines", 0, "name")


@pytest.fixture
def key():
    return new_key()


def test_what_is_encrypted_can_be_read_with_its_key_at_its_place(key):
    sealed = encrypt(key, PLAIN, PLACE)
    assert PLAIN not in sealed
    assert decrypt(key, sealed, PLACE) == PLAIN
    assert decrypt(key, sealed, list(PLACE)) == PLAIN


def test_the_same_text_is_never_encrypted_to_the_same(key):
    assert encrypt(key, PLAIN, PLACE) != encrypt(key, PLAIN, PLACE)


@pytest.mark.parametrize("text", [b"", b"\x00" * 1000, "日本".encode()])
def test_any_bytes_can_be_encrypted(key, text):
    assert decrypt(key, encrypt(key, text, ()), ()) == text


@pytest.mark.parametrize(
    "other",
    [
        (),
        ("event", "e-2", "lines", 0, "name"),
        ("event", "e-1", "lines", 1, "name"),
        ("event", "e-1", "lines", "0", "name"),
        ("event", "e-1", "lines", 0),
        ("event", "e-1", "lines", 0, "name", ""),
        ("event", "e-1lines", 0, "name"),
        ("event", 'e-1", "lines', 0, "name"),
        ("state", "e-1", "lines", 0, "name"),
    ],
)
def test_it_cannot_be_read_at_another_place(key, other):
    with pytest.raises(ValueError, match="changed, belongs somewhere else or to another key"):
        decrypt(key, encrypt(key, PLAIN, PLACE), other)


def test_it_cannot_be_read_with_another_key(key):
    with pytest.raises(ValueError, match="another key"):
        decrypt(new_key(), encrypt(key, PLAIN, PLACE), PLACE)


def test_a_change_of_any_byte_is_noticed(key):
    sealed = encrypt(key, PLAIN, PLACE)
    for index in range(len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 1
        with pytest.raises(ValueError, match="it was changed"):
            decrypt(key, bytes(changed), PLACE)


@pytest.mark.parametrize("length", [0, 1, 11, 12, 20, 27])
def test_a_text_that_was_cut_is_refused(key, length):
    with pytest.raises(ValueError, match="it was changed"):
        decrypt(key, encrypt(key, b"", PLACE)[:length], PLACE)


def test_a_combined_key_needs_every_key():
    first, second = new_key(), new_key()
    combined = combined_key([first, second])
    assert combined == combined_key([first, second])
    others = [combined_key(keys) for keys in ([], [first], [second], [second, first], [first, first])]
    assert len({combined, first, second, *others}) == 8
    assert len(combined) == KEY_BYTES


def test_a_data_key_shows_its_id_and_not_its_secret():
    key = new_data_key()
    assert key.key_id in repr(key)
    assert repr(key.secret) not in f"{key!r}{key!s}"


@pytest.mark.parametrize("secret", [b"", b"x" * 16, b"x" * 33, "x" * 32, bytearray(32), None])
def test_a_secret_has_32_bytes(secret):
    with pytest.raises(InvalidInputError, match="must be 32 bytes"):
        DataKey("id", secret)


def test_data_keys_are_wrapped_under_the_current_key():
    wrapping = WrappingKeys({"old": OLD, "new": NEW}, current="new")
    key = new_data_key()
    wrapped = wrapping.wrap("ada", key)
    assert key.secret not in wrapped
    assert wrapping.unwrap("new", "ada", key.key_id, wrapped) == key
    assert WrappingKeys({"new": NEW}, current="new").unwrap("new", "ada", key.key_id, wrapped) == key


def test_a_wrapping_key_that_is_not_given_is_named():
    key = new_data_key()
    wrapped = WrappingKeys({"old": OLD}, current="old").wrap("ada", key)
    with pytest.raises(ConfigurationError, match=r"wrapped with 'old', which is not among \['new'\]: add it"):
        WrappingKeys({"new": NEW}, current="new").unwrap("old", "ada", key.key_id, wrapped)


@pytest.mark.parametrize("moved", ["subject", "key_id", "bytes", "data"])
def test_a_wrapped_key_is_good_for_its_subject_and_id_only(moved):
    wrapping = WrappingKeys({"old": OLD, "new": NEW}, current="new")
    key, other = new_data_key(), new_data_key()
    wrapped = wrapping.wrap("ada", key)
    if moved == "bytes":
        wrapping = WrappingKeys({"new": OLD}, current="new")
    with pytest.raises(CorruptDataError, match="cannot be unwrapped with 'new'"):
        wrapping.unwrap(
            "new",
            "bob" if moved == "subject" else "ada",
            other.key_id if moved == "key_id" else key.key_id,
            wrapped[:-1] if moved == "data" else wrapped,
        )


@pytest.mark.parametrize(
    ("keys", "current", "problem"),
    [
        ({}, "a", "there is no wrapping key 'a'"),
        ({"a": OLD}, "b", "there is no wrapping key 'b'"),
        ({"a": OLD}, None, "there is no wrapping key None"),
        ({"a": OLD}, ["a"], r"there is no wrapping key \['a'\]"),
        ({"a": b"short"}, "a", "wrapping key 'a' must be 32 bytes"),
        ({"a": "x" * 32}, "a", "wrapping key 'a' must be 32 bytes"),
        ({"a": OLD, "b": OLD + b"x"}, "a", "wrapping key 'b' must be 32 bytes"),
        ({"": OLD}, "", "name of a wrapping key must have 1 to 255 characters"),
        ({"a\x00": OLD}, "a\x00", "must not hold NUL"),
        ({5: OLD}, 5, "name of a wrapping key must be a string"),
        ([("a", OLD)], "a", "keys must be a mapping"),
    ],
)
def test_wrapping_keys_are_checked(keys, current, problem):
    with pytest.raises(ConfigurationError, match=problem) as refused:
        WrappingKeys(keys, current)
    assert repr(OLD)[2:-1] not in str(refused.value)


def test_wrapping_keys_show_their_names_only():
    wrapping = WrappingKeys({"b": OLD, "a": NEW}, current="b")
    assert repr(wrapping) == str(wrapping) == "WrappingKeys(keys=['a', 'b'], current='b')"


def test_wrapping_keys_stay_as_they_were_given():
    given = {"a": OLD}
    wrapping = WrappingKeys(given, current="a")
    given["a"] = NEW
    assert wrapping.keys == {"a": OLD}
    with pytest.raises(TypeError):
        wrapping.keys["a"] = NEW


def test_without_cryptography_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(cipher, "find_spec", lambda _name: None)
    for call in (check_available, lambda: WrappingKeys({"a": OLD}, current="a")):
        with pytest.raises(ConfigurationError, match=r"pip install 'k1s0-event-store\[personal\]'"):
            call()


@pytest.mark.parametrize(("version", "enough"), [("2.10.6", False), ("2.12.0", True), ("3.0.0b1", True)])
def test_an_old_pydantic_is_refused(monkeypatch, version, enough):
    monkeypatch.setattr(pydantic, "VERSION", version)
    if enough:
        check_available()
    else:
        with pytest.raises(ConfigurationError, match=r"pydantic 2\.12 or later"):
            check_available()


@pytest.mark.parametrize("module", ["keys", "personal", "sealer", "memory.keys", "postgres.keys"])
def test_importing_needs_no_cryptography(module):
    assert import_module(f"k1s0_event_store.{module}")
    code = f"import sys, k1s0_event_store.{module}; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
