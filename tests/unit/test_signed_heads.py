"""Signed heads: each line attests its events and the line before it, and nothing else passes for one."""

import asyncio
import json
import sys
from base64 import b64decode
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from k1s0_event_store import ConfigurationError, TransferError
from k1s0_event_store.chain import Stretch, Summary
from k1s0_event_store.signed_heads import Head, HeadFault, check_heads, parse, read_heads, sign_head
from k1s0_event_store.signing import PrivateKey, PublicKey

KEY, OTHER = PrivateKey.new(), PrivateKey.new()


class Events:
    """Links at the positions 1, 2, 3, ..."""

    def __init__(self, count=0):
        self.links = []
        self.more(count)

    def more(self, count):
        self.links += [sha256(str(len(self.links) + n).encode()).digest() for n in range(count)]

    async def settled(self, wait):
        return len(self.links)

    async def stretch(self, after, to):
        summary = Summary()
        summary.add(self.links[after or 0 : to])
        return summary.stretch()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "heads.jsonl"


@pytest.fixture
async def events(path):
    """Events, and four signed heads of them: of 5, 3, none and 4."""
    events = Events()
    for count in (5, 3, 0, 4):
        events.more(count)
        await sign_head(path, KEY, events)
    return events


async def check(path, events, key=KEY):
    with path.open("rb") as file:
        return [found async for found in check_heads(file, key.public, events)]


async def faults(path, events, key=KEY):
    """The line and the problem of each fault."""
    return [(f.line, f.problem) for f in await check(path, events, key) if isinstance(f, HeadFault)]


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


async def test_heads_of_what_is_there_have_no_faults(path, events):
    heads = await check(path, events)
    assert [(head.after, head.to, head.events) for head in heads] == [
        (0, 5, 5), (5, 8, 3), (8, 8, 0), (8, 12, 4)
    ]  # fmt: skip
    assert [head.previous for head in heads] == [
        None, *(sha256(line.rstrip(b"\n")).hexdigest() for line in lines(path)[:-1])
    ]  # fmt: skip
    assert heads[2].digest == sha256(b"").hexdigest()


async def test_what_comes_after_the_last_head_is_not_attested(path, events):
    events.more(3)
    assert await faults(path, events) == []


async def test_a_line_can_be_checked_with_any_library(path, events):
    """By the documented form: sorted names, no spaces, the signature left out."""
    fields = json.loads(lines(path)[1])
    assert fields["format"] == "k1s0-event-store-head"
    assert fields["version"] == 1
    signature = b64decode(fields.pop("signature"))
    assert KEY.public.has_signed(
        signature, json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    )
    assert fields["key"] == KEY.public.id


CHANGES = {
    "events are lost": (
        lambda links: links.__delitem__(slice(10, 12)),
        (4, "4 events from 8 to 12 were signed, but there are 2"),
    ),
    "all are lost": (
        lambda links: links.clear(),
        (1, "5 events up to position 5 were signed, but there are 0"),
    ),
    "an event is changed": (
        lambda links: links.__setitem__(9, b"x"),
        (4, "the 4 events from 8 to 12 are not "),
    ),
    "two are swapped": (
        lambda links: links.__setitem__(slice(0, 2), links[1::-1]),
        (1, "the 5 events up to position 5 are not those that were signed, or not in this order"),
    ),
    "two of different days are swapped": (
        lambda links: links.__setitem__(slice(4, 6), links[5:3:-1]),
        (1, "the 5 events up to position 5 are not those"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_changed_events_are_found_by_the_line_that_attests_them(path, events, change):
    do, (line, problem) = CHANGES[change]
    do(events.links)
    found = [fault for fault in await check(path, events) if isinstance(fault, HeadFault)]
    assert found[0].line == line
    assert found[0].problem.startswith(problem)
    assert found[0].day == json.loads(lines(path)[line - 1])["signed_at"][:10]
    assert len(found[0].advice) > 20


def swapped(lines):
    return [lines[0], lines[2], lines[1], *lines[3:]]


def replaced(number, old, new):
    return lambda lines: [line.replace(old, new) if n == number else line for n, line in enumerate(lines, 1)]


FILES = {
    "a line is missing": (lambda lines: [*lines[:1], *lines[2:]], [(2, "does not follow"), ]),
    "the first line is missing": (lambda lines: lines[1:], [(1, "does not follow")]),
    "lines are swapped": (swapped, [(2, "does not follow"), (3, "does not follow"), (4, "does not follow")]),
    "a line stands twice": (lambda lines: [*lines[:2], *lines[1:]], [(3, "does not follow")]),
    "a number is changed": (replaced(2, b'"events":3', b'"events":2'), [(2, "changed or forged")]),
    "a day is changed": (replaced(3, b'"signed_at":"2', b'"signed_at":"1'), [(3, "changed or forged")]),
    "a space is added": (replaced(2, b'"events":3', b'"events": 3'), [(2, "written anew")]),
    "a field is added": (replaced(2, b'"events":3', b'"events":3,"x":1'), [(2, "is no head: x: ")]),
    "a field stands twice": (replaced(2, b'"events":3', b'"events":2,"events":3'), [(2, "written anew")]),
    "a field is missing": (replaced(2, b'"events":3,', b""), [(2, "is no head: events: ")]),
    "a version is unknown": (replaced(2, b'"version":1', b'"version":2'), [(2, "is no head: version: ")]),
    "a signature is no base64": (
        replaced(2, b'"signature":"', b'"signature":"!'), [(2, "changed or forged")],
    ),
    "another key is named": (
        replaced(2, KEY.public.id.encode(), OTHER.public.id.encode()),
        [(2, f"with the key {OTHER.public.id}")],
    ),
    "a line is no JSON": (lambda lines: [b"\xff\n", *lines[1:]], [(1, "is no head")]),
    "a line is empty": (lambda lines: [lines[0], b"\n", *lines[1:]], [(2, "is no head")]),
    "the last line is cut": (lambda lines: [*lines[:3], lines[3][:-1]], [(4, "was cut")]),
    "the file is empty": (lambda lines: [], [(0, "the file is empty")]),
}  # fmt: skip


@pytest.mark.parametrize("change", FILES)
async def test_a_file_that_was_not_written_like_this_is_found_out(path, events, change):
    do, expected = FILES[change]
    path.write_bytes(b"".join(do(lines(path))))
    found = await faults(path, events)
    assert [line for line, _ in found] == [line for line, _ in expected]
    for (_, problem), (_, part) in zip(found, expected, strict=True):
        assert part in problem


async def test_a_line_forged_with_another_key_is_found_out(path, events):
    """Also where it claims the key that it was not signed with."""
    good = parse(lines(path)[3], KEY.public)
    forged = good.model_copy(update={"events": 3}).signed(OTHER)
    path.write_bytes(b"".join([*lines(path)[:3], forged.line() + b"\n"]))
    assert await faults(path, events) == [(4, "the line was changed or forged: it is not what was signed")]


async def test_with_the_wrong_key_every_line_is_refused(path, events):
    found = await faults(path, events, OTHER)
    assert [line for line, _ in found] == [1, 2, 3, 4]
    assert all(f"signed with the key {KEY.public.id}, and not with" in problem for _, problem in found)


@pytest.mark.parametrize(("after", "to"), [(5, 12), (8, 7), (9, 12)])
async def test_a_line_that_begins_or_ends_where_it_should_not_is_found_out(path, events, after, to):
    """Signed with the key and well linked, as by a program that is not ours."""
    good = parse(lines(path)[3], KEY.public)
    there = await events.stretch(after, to)
    strange = good.model_copy(
        update={"after": after, "to": to, "events": there.events, "digest": there.digest}
    )
    path.write_bytes(b"".join([*lines(path)[:3], strange.signed(KEY).line() + b"\n"]))
    assert await faults(path, events) == [
        (4, f"the line begins at position {after} and ends at {to}: that is not where it should")
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-1], "was cut"),
        (lambda text: text + b"x\n", "is no head"),
        (lambda text: text.replace(b'"events":4', b'"events":5'), "changed or forged"),
        (lambda text: text + b"x" * 5_000, "was cut, or is too long"),
        (lambda text: b"\n", "is no head"),
    ],
)
async def test_nothing_is_added_behind_a_last_line_that_is_not_right(path, events, change, reason):
    before = change(path.read_bytes())
    path.write_bytes(before)
    with pytest.raises(
        TransferError, match=f"nothing was added to .*heads.jsonl, whose last line .*{reason}"
    ):
        await sign_head(path, KEY, events)
    assert path.read_bytes() == before


async def test_nothing_is_added_with_another_key(path, events):
    before = path.read_bytes()
    with pytest.raises(TransferError, match=f"signed with the key {KEY.public.id}"):
        await sign_head(path, OTHER, events)
    assert path.read_bytes() == before


async def test_nothing_is_added_where_attested_events_are_gone(path, events):
    before = path.read_bytes()
    del events.links[10:]
    with pytest.raises(TransferError, match="up to position 12, but there are none beyond 10"):
        await sign_head(path, KEY, events)
    assert path.read_bytes() == before


async def test_only_one_signs_at_a_time(path):
    class Slow(Events):
        async def settled(self, wait):
            entered.set()
            await leave.wait()
            return await super().settled(wait)

    entered, leave = asyncio.Event(), asyncio.Event()
    signing = asyncio.create_task(sign_head(path, KEY, Slow(2)))
    await entered.wait()
    with pytest.raises(TransferError, match="another process is writing"):
        await sign_head(path, KEY, Events(2))
    leave.set()
    await signing
    assert len(lines(path)) == 1


async def test_a_wait_that_fails_adds_nothing(path, events):
    class Busy(Events):
        async def settled(self, wait):
            raise TimeoutError(wait)

    before = path.read_bytes()
    with pytest.raises(TimeoutError, match="7"):
        await sign_head(path, KEY, Busy(12), wait=7)
    assert path.read_bytes() == before


def test_keys_come_back_from_pem():
    again, public = PrivateKey.from_pem(KEY.pem()), PublicKey.from_pem(KEY.public.pem())
    assert again.public.id == public.id == KEY.public.id != OTHER.public.id
    assert public.has_signed(again.sign(b"x"), b"x")
    assert not public.has_signed(again.sign(b"x"), b"y")
    assert not public.has_signed(OTHER.sign(b"x"), b"x")
    assert not public.has_signed(b"", b"x")


def test_what_is_no_key_is_refused():
    kind = X25519PrivateKey.generate()
    private = kind.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = kind.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for pem in (b"", b"x", KEY.public.pem(), private):
        with pytest.raises(ConfigurationError, match="private key"):
            PrivateKey.from_pem(pem)
    for pem in (b"", b"x", KEY.pem(), public):
        with pytest.raises(ConfigurationError, match="public key"):
            PublicKey.from_pem(pem)


def test_without_the_extra_signing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for call in (PrivateKey.new, lambda: PrivateKey.from_pem(b""), lambda: PublicKey.from_pem(b"")):
        with pytest.raises(ConfigurationError, match=r"k1s0-event-store\[signing\]"):
            call()


def test_a_head_is_a_value():
    head = Head(
        after=0, to=1, events=1, digest="0" * 64, previous=None,
        signed_at="2026-12-01T00:00:00+00:00", key=KEY.public.id,
    )  # fmt: skip
    assert head == head.model_copy()
    assert head.day == "2026-12-01"
    assert not head.is_signed_with(KEY.public)
    assert head.signed(KEY).is_signed_with(KEY.public)
    (only,) = read_heads([head.signed(KEY).line() + b"\n"], KEY.public)
    assert only == (1, head.signed(KEY))
    assert Summary().stretch() == Stretch(0, sha256(b"").hexdigest())
