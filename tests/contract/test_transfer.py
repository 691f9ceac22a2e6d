"""Export and import on every store: what comes back, what is gone on with, and what is refused."""

import asyncio
import fcntl
import io
import json
import pickle
import random
import sys
from functools import reduce

import pytest

from k1s0_event_store import (
    ConfigurationError,
    CorruptDataError,
    EventEnvelope,
    EventStoreConfig,
    InMemoryEventStore,
    PostgresEventStore,
    StreamId,
)
from k1s0_event_store.exceptions import TransferError
from k1s0_event_store.testing.plugin import cloned_database
from k1s0_event_store.transfer import exporting, importing
from k1s0_event_store.transfer.exporting import Selection, export_events
from k1s0_event_store.transfer.files import PartFile, PartWriter
from k1s0_event_store.transfer.importing import import_events

SEED = 2026
ONE, TWO = StreamId("order", "1"), StreamId("order", "2")
SUFFIXES = ("", ".gz", ".zst")
DEEP = reduce(lambda inner, _: {"a": [inner]}, range(110), 1)
VALUES = [
    DEEP,
    *(None, True, "", "é\u2028\n", "x" * 3000, 0, -7, 2**63, 10**400, -(10**30), 0.1, 1.0, -2.5e-9, 1.7e308),
    *([], {}, [[1, [2.5, {"a": None}]]], {"b": {"c": [1e22, 10**22]}, "a": "\\u0041"}),
]


class Interrupted(Exception):
    """What the tests break off with."""


@pytest.fixture(params=["in_memory", "postgres"])
async def make_store(request):
    """New, empty stores of one kind."""
    made, databases = [], []

    def make():
        if request.param == "in_memory":
            return InMemoryEventStore()
        server, template = map(request.getfixturevalue, ("event_store_server", "event_store_template"))
        databases.append(cloned_database(server, template))
        made.append(PostgresEventStore(EventStoreConfig(dsn=databases[-1].__enter__())))
        return made[-1]

    if request.param == "postgres":
        request.getfixturevalue("event_store_template")
    yield make
    for store in made:
        await store.close()
    for database in databases:
        database.__exit__(None, None, None)


@pytest.fixture
def small_batches(monkeypatch):
    """Three events are written, and two lines are imported, together."""
    monkeypatch.setattr(exporting, "_MOST_EVENTS", 3)
    monkeypatch.setattr(importing, "_MOST_EVENTS", 2)


def value(chance, depth=0):
    if depth > 3 or chance.random() < 0.6:
        return chance.choice(VALUES)
    if chance.random() < 0.5:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice("abcü\n"): value(chance, depth + 1) for _ in range(chance.randrange(4))}


async def fill(store, appends=25, seed=SEED):
    """Random events in a few streams, of which two share an aggregate id."""
    chance = random.Random(seed)
    streams = [ONE, TWO, StreamId("cart", "1"), StreamId("a type", "-\u00e9 'x'")]
    for _ in range(appends):
        stream = chance.choice(streams)
        metadata = {"trace_id": "t"} if chance.random() < 0.5 else {}
        events = [
            EventEnvelope(stream, f"Type{chance.randrange(3)}", value(chance), metadata)
            for _ in range(chance.randrange(1, 4))
        ]
        await store.append(stream, events)


async def contents(store):
    """All that a store keeps, but for what is new in every store; sorted by stream and version."""
    events = [
        (e.stream_id.aggregate_type, e.stream_id.aggregate_id, e.version, e.event_id, e.event_type,
         json.dumps(e.payload), json.dumps(dict(e.metadata)), e.occurred_at)
        async for e in store.read_all()
    ]  # fmt: skip
    return sorted(events, key=lambda event: event[:3])


def new_event(stream=ONE, event_type="Placed", payload=None, **more):
    return EventEnvelope(stream, event_type, {} if payload is None else payload, **more)


def lines_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def exported_lines(store):
    """An export as lines of bytes."""
    file = io.BytesIO()
    await export_events(store, file)
    return file.getvalue().splitlines(keepends=True)


def importing_lines(store, lines):
    return import_events(store, io.BytesIO(b"".join(lines)))


def changed(line, **fields):
    """A line with other fields; those that are None are left out."""
    new = {**json.loads(line), **fields}
    return json.dumps({key: value for key, value in new.items() if value is not None}).encode() + b"\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_random_store_comes_back_equal(make_store, tmp_path, suffix):
    source, target = make_store(), make_store()
    await fill(source)
    path = tmp_path / f"events.jsonl{suffix}"
    exported = await export_events(source, path)
    imported = await import_events(target, path)
    assert await contents(target) == await contents(source)
    assert exported.events == imported.events == imported.appended > 25
    assert exported.size == imported.size == path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


async def test_a_file_has_the_order_of_the_feed_between_a_header_and_a_footer(make_store, tmp_path):
    store, path = make_store(), tmp_path / "events.jsonl"
    await fill(store)
    await export_events(store, path)
    header, *events, footer = lines_of(path)
    feed = [event async for event in store.read_all()]
    assert header == {"format": "k1s0-event-store", "version": 1, "aggregate_types": None, "stream": None}
    assert [event["event_id"] for event in events] == [str(event.event_id) for event in feed]
    assert [event["position"] for event in events] == [event.position for event in feed]
    assert events[0].keys() == {
        *("aggregate_type", "aggregate_id", "version", "event_id", "event_type", "payload", "metadata"),
        *("occurred_at", "recorded_at", "position"),
    }
    assert footer == {"events": len(feed)}


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (Selection(("order", "nothing")), lambda event: event[0] == "order"),
        (Selection(stream_id=TWO), lambda event: event[:2] == ("order", "2")),
        (Selection(stream_id=StreamId("no", "stream")), lambda event: False),
    ],
    ids=["types", "stream", "nothing"],
)
async def test_only_what_is_selected_is_exported(make_store, tmp_path, selection, wanted):
    source, target = make_store(), make_store()
    await fill(source)
    path = tmp_path / "events.jsonl"
    await export_events(source, path, selection)
    await import_events(target, path)
    assert await contents(target) == [event for event in await contents(source) if wanted(event)]
    assert lines_of(path)[0] | selection.fields() == lines_of(path)[0]


def test_types_and_a_stream_at_the_same_time_are_refused():
    with pytest.raises(TransferError, match="not both"):
        Selection(("order",), ONE)


async def test_an_empty_store_gives_a_file_that_can_be_imported(make_store, tmp_path):
    path = tmp_path / "events.jsonl"
    assert (await export_events(make_store(), path)).events == 0
    assert (await import_events(make_store(), path)).events == 0
    assert len(lines_of(path)) == 2


async def test_an_export_ends_with_what_was_committed_when_it_began(make_store, tmp_path, small_batches):
    store, path = make_store(), tmp_path / "events.jsonl"
    await fill(store)
    before = len(await contents(store))

    def append_more(exported):
        raise Interrupted

    with pytest.raises(Interrupted):
        await export_events(store, path, watch=append_more)
    await fill(store, seed=SEED + 1)
    assert (await export_events(store, path, resume=True)).events == before


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("selection", [Selection(), Selection(("order",)), Selection(stream_id=ONE)], ids=str)
async def test_an_export_interrupted_after_every_batch_gives_the_same_file(
    make_store, tmp_path, small_batches, suffix, selection
):
    store = make_store()
    await fill(store)
    whole, broken = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    await export_events(store, whole, selection)

    def interrupt(exported):
        raise Interrupted

    interruptions = 0
    while not broken.exists():
        try:
            await export_events(store, broken, selection, resume=True, watch=interrupt)
        except Interrupted:
            interruptions += 1
    assert interruptions > 3
    assert broken.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_bytes_that_were_not_noted_any_more_are_written_again(
    make_store, tmp_path, small_batches, suffix, monkeypatch
):
    store = make_store()
    await fill(store)
    whole, broken = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    await export_events(store, whole)
    save, saved = PartWriter.save, []

    def save_twice(self, checkpoint):
        saved.append(checkpoint)
        if len(saved) > 2:
            raise Interrupted
        save(self, checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(PartWriter, "save", save_twice)
        with pytest.raises(Interrupted):
            await export_events(store, broken)
    assert (await export_events(store, broken, resume=True)).events == len(await contents(store))
    assert broken.read_bytes() == whole.read_bytes()


@pytest.fixture
async def interrupted(make_store, tmp_path, small_batches):
    """A store, and the path of an export of it that was broken off."""
    store, path = make_store(), tmp_path / "events.jsonl"
    await fill(store)

    def interrupt(exported):
        raise Interrupted

    with pytest.raises(Interrupted):
        await export_events(store, path, watch=interrupt)
    return store, path


async def test_an_interrupted_export_is_neither_whole_nor_overwritten(interrupted):
    store, path = interrupted
    assert not path.exists()
    part = path.with_name("events.jsonl.part").read_bytes()
    with pytest.raises(TransferError, match="interrupted: resume it, or remove it"):
        await export_events(store, path)
    assert path.with_name("events.jsonl.part").read_bytes() == part


async def test_a_finished_file_is_not_overwritten(make_store, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("mine")
    for resume in (False, True):
        with pytest.raises(TransferError, match="is there already"):
            await export_events(make_store(), path, resume=resume)
    assert path.read_text() == "mine"


async def test_other_filters_than_those_it_was_begun_with_are_refused(interrupted):
    store, path = interrupted
    with pytest.raises(TransferError, match="same filters"):
        await export_events(store, path, Selection(("order",)), resume=True)


async def test_another_store_than_the_one_it_was_begun_with_is_refused(interrupted, make_store):
    _, path = interrupted
    other = make_store()
    await fill(other)  # the same streams, but other events
    with pytest.raises(TransferError, match="of another store"):
        await export_events(other, path, resume=True)


DAMAGED_NOTES = {
    "cut": "{", "other fields": '{"bytes": 1}', "a list": "[]", "a number": "3", "deep": "[" * 100_000,
    "a negative size": '{"selection": {}, "until": "7", "size": -5}',
    "a size of text": '{"selection": {}, "until": "7", "size": "x"}',
    "an end of another type": '{"selection": {}, "until": 7}',
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED_NOTES.values(), ids=DAMAGED_NOTES)
async def test_a_damaged_note_of_the_place_is_refused(interrupted, damage):
    store, path = interrupted
    path.with_name("events.jsonl.place").write_text(damage)
    with pytest.raises(TransferError, match="damaged: remove it"):
        await export_events(store, path, resume=True)


async def test_a_part_that_has_lost_bytes_is_refused(interrupted):
    store, path = interrupted
    path.with_name("events.jsonl.part").write_text("")
    with pytest.raises(TransferError, match="shorter than it was"):
        await export_events(store, path, resume=True)


async def test_a_part_that_another_process_writes_is_left_alone(interrupted):
    store, path = interrupted
    with path.with_name("events.jsonl.part").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TransferError, match="another process is writing"):
            await export_events(store, path, resume=True)
    assert (await export_events(store, path, resume=True)).events == len(await contents(store))


def test_a_part_that_was_finished_meanwhile_is_not_gone_on_with(tmp_path):
    with pytest.raises(TransferError, match="changed meanwhile"), PartFile(tmp_path / "events").opened(100):
        raise AssertionError("it got in")


async def test_what_is_no_file_cannot_be_resumed(make_store):
    with pytest.raises(TransferError, match="only an export to a file"):
        await export_events(make_store(), io.BytesIO(), resume=True)


async def test_an_import_repeated_appends_nothing(make_store):
    source, target = make_store(), make_store()
    await fill(source)
    lines = await exported_lines(source)
    first = await importing_lines(target, lines)
    again = await importing_lines(target, lines)
    assert (first.appended, again.appended) == (first.events, 0)
    assert first.events == again.events
    assert await contents(target) == await contents(source)


async def test_an_import_interrupted_after_every_batch_gives_the_same_store(make_store, small_batches):
    source, target = make_store(), make_store()
    await fill(source)
    lines = await exported_lines(source)
    done = 0

    def interrupt(imported):
        if imported.appended:
            raise Interrupted

    while done < len(await contents(source)):
        with pytest.raises(Interrupted):
            await import_events(target, io.BytesIO(b"".join(lines)), watch=interrupt)
        stored = len(await contents(target))
        assert 0 < stored - done <= 2
        done = stored
    assert await contents(target) == await contents(source)


async def test_two_imports_of_one_file_at_the_same_time_append_each_event_once(make_store):
    source, target = make_store(), make_store()
    await fill(source, 60)
    lines = await exported_lines(source)
    both = await asyncio.gather(*(importing_lines(target, lines) for _ in range(3)))
    assert sum(imported.appended for imported in both) >= len(await contents(source))
    assert await contents(target) == await contents(source)


@pytest.fixture
def between(monkeypatch):
    """Have `work` done once, after a store in memory was looked at and before it is appended to.

    PostgreSQL keeps others away there: see test_imports.py.
    """

    def arrange(store, work):
        load = type(store).load

        async def load_too_early(self, *args, **options):
            found = await load(self, *args, **options)
            monkeypatch.undo()
            await work()
            return found

        monkeypatch.setattr(type(store), "load", load_too_early)

    return arrange


async def test_an_import_beside_another_one_of_a_part_of_it_looks_again(between):
    source, target = InMemoryEventStore(), InMemoryEventStore()
    events = [new_event() for _ in range(5)]
    await source.append(ONE, events)
    lines = await exported_lines(source)
    between(target, lambda: target.append(ONE, events[:2]))
    assert (await importing_lines(target, lines)).appended == 3
    assert await contents(target) == await contents(source)


async def test_an_import_beside_a_writer_of_other_events_is_refused(between):
    source, target = InMemoryEventStore(), InMemoryEventStore()
    await source.append(ONE, [new_event() for _ in range(2)])
    lines = await exported_lines(source)
    other = new_event(event_type="Other")
    between(target, lambda: target.append(ONE, [other]))
    with pytest.raises(TransferError, match=f"but Other {other.event_id} in the store"):
        await importing_lines(target, lines)
    assert len(await contents(target)) == 1


def test_an_error_goes_between_processes():
    error = pickle.loads(pickle.dumps(TransferError("no JSON", 3)))  # noqa: S301 - our own bytes
    assert (str(error), error.reason, error.line) == ("line 3: no JSON", "no JSON", 3)


async def test_an_import_goes_on_where_the_store_stands_in_the_middle_of_a_stream(make_store):
    source, target = make_store(), make_store()
    events = [new_event(payload={"n": number}) for number in range(5)]
    await source.append(ONE, events)
    await target.append(ONE, events[:3])
    imported = await importing_lines(target, await exported_lines(source))
    assert (imported.events, imported.appended) == (5, 2)
    assert await contents(target) == await contents(source)


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_file_cut_anywhere_is_noticed(make_store, tmp_path, suffix):
    source = make_store()
    await fill(source, 4)
    path = tmp_path / f"events{suffix}"
    await export_events(source, path)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 8, len(whole) // 40):  # the last 8 bytes may be a checksum
        path.write_bytes(whole[:size])
        with pytest.raises(TransferError):
            await import_events(InMemoryEventStore(), path)
    path.write_bytes(whole)
    assert (await import_events(InMemoryEventStore(), path)).events == len(await contents(source))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
async def test_a_damaged_compressed_file_is_refused(make_store, tmp_path, suffix):
    source, path = make_store(), tmp_path / f"events{suffix}"
    await source.append(ONE, [new_event(payload={"n": n}) for n in range(50)])
    await export_events(source, path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(TransferError, match="line "):
        await import_events(InMemoryEventStore(), path)


DAMAGED = {
    "no JSON": (lambda line: b"{]\n", "no JSON"),
    "no UTF-8": (lambda line: b'{"a": "\xff"}\n', "no JSON"),
    "no object": (lambda line: b"[1]\n", "no JSON object"),
    "empty": (lambda line: b"\n", "no JSON"),
    "missing": (
        lambda line: changed(line, event_id=None, payload=None),
        "the event has no event_id, payload",
    ),
    "unknown": (lambda line: changed(line, colour="red"), "nothing is known of 'colour'"),
    "id": (lambda line: changed(line, event_id="7"), "event_id must be a UUID"),
    "id's type": (lambda line: changed(line, event_id=7), "event_id must be a UUID"),
    "time": (lambda line: changed(line, occurred_at="soon"), "occurred_at must be an ISO 8601 time"),
    "time zone": (lambda line: changed(line, occurred_at="2026-01-01T00:00:00"), "timezone-aware"),
    "type": (lambda line: changed(line, event_type=""), "event_type must have 1 to 255"),
    "stream": (lambda line: changed(line, aggregate_id="x\x00"), "must not hold NUL"),
    "metadata": (lambda line: changed(line, metadata=[1]), "metadata must be an object"),
    "version 0": (lambda line: changed(line, version=0), "first version of a stream is 1"),
    "version's type": (lambda line: changed(line, version="3"), "version must be a whole number"),
    "gap": (lambda line: changed(line, version=4), "version 4 of order-1 follows version 2"),
    "again": (lambda line: changed(line, version=2), "version 2 of order-1 follows version 2"),
    "NaN": (lambda line: changed(line, payload=float("nan")), "NaN"),
    "NUL": (lambda line: changed(line, payload="\x00"), "u0000"),
}


@pytest.mark.parametrize("damage", DAMAGED)
async def test_a_bad_line_is_named_and_what_stands_before_it_is_imported(make_store, damage):
    source, target = make_store(), make_store()
    await source.append(ONE, [new_event() for _ in range(4)])
    lines = await exported_lines(source)
    change, reason = DAMAGED[damage]
    lines[3] = change(lines[3])
    with pytest.raises(TransferError, match=reason) as refused:
        await importing_lines(target, lines)
    assert refused.value.line == 4
    assert str(refused.value).startswith("line 4: ")
    assert await contents(target) == (await contents(source))[:2]


async def test_of_several_bad_lines_the_first_is_told_and_all_before_it_are_imported(make_store):
    source, target = make_store(), make_store()
    for _ in range(3):
        for stream in (ONE, TWO, StreamId("cart", "1")):
            await source.append(stream, [new_event(stream)])
    lines = await exported_lines(source)
    for number in (8, 6):
        lines[number - 1] = changed(lines[number - 1], payload=float("nan"))
    with pytest.raises(TransferError) as refused:
        await importing_lines(target, lines)
    assert refused.value.line == 6
    stored = {event[:3] for event in await contents(target)}
    assert {("order", "1", 1), ("order", "2", 1), ("cart", "1", 1), ("order", "1", 2)} <= stored
    assert ("order", "2", 2) not in stored


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ({"format": "other"}, "no export of events"),
        ({"format": None}, "no export of events"),
        ({"version": 2}, "format version 2 is not known"),
    ],
    ids=str,
)
async def test_a_file_of_another_kind_is_refused_before_anything_is_imported(make_store, first, reason):
    source, target = make_store(), make_store()
    await fill(source, 3)
    header, *rest = await exported_lines(source)
    with pytest.raises(TransferError, match=reason) as refused:
        await importing_lines(target, [changed(header, **first), *rest])
    assert refused.value.line == 1
    assert await contents(target) == []


LAYOUTS = {
    "metadata last": lambda f: {**{k: v for k, v in f.items() if k != "metadata"}, "metadata": f["metadata"]},
    "payload first": lambda f: {"payload": f.pop("payload"), **f},
    "payload in metadata": lambda f: {**f, "metadata": {"a": 1, "payload": {"b": '","payload":{}'}}},
    "payload in payload": lambda f: {**f, "payload": {"a": 1, "payload": {"b": "}"}, "metadata": 1}},
    "infinite": lambda f: {**f, "payload": [1e300, 10**308, "1e999", "\\u0000", "NaN"]},
}


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["narrow", "wide"])
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_fields_may_stand_in_any_order_and_form(layout, separators):
    source, target = InMemoryEventStore(), InMemoryEventStore()
    await source.append(ONE, [new_event(payload={"n": 1}, metadata={"trace_id": "é"})])
    header, line, footer = await exported_lines(source)
    fields = LAYOUTS[layout](json.loads(line))
    written = json.dumps(fields, separators=separators, ensure_ascii=False).encode() + b"\n"
    await importing_lines(target, [header, written, footer])
    (stored,) = await target.load(ONE)
    assert (stored.payload, stored.metadata) == (fields["payload"], fields["metadata"])


@pytest.mark.parametrize(
    "end", ['"payload":1}', ',"payload":1,"payload":1}x', ',"payload":}', ',"payload":{}}}', ',"payload":1']
)
async def test_a_line_that_only_looks_whole_is_refused(end):
    source = InMemoryEventStore()
    await source.append(ONE, [new_event()])
    header, line, footer = await exported_lines(source)
    broken = line.partition(b',"payload"')[0] + end.encode() + b"\n"
    with pytest.raises(TransferError, match="line 2: this is no JSON"):
        await importing_lines(InMemoryEventStore(), [header, broken, footer])


@pytest.mark.parametrize(
    ("number", "reason"),
    [("1e999", "Infinity"), (f"-{'9' * 400}.0", "Infinity"), ("9" * 4301, "number out of range|digits")],
    ids=["exponent", "digits", "long"],
)
async def test_a_number_that_nobody_could_read_back_is_refused(number, reason):
    source = InMemoryEventStore()
    await source.append(ONE, [new_event(payload="HERE")])
    header, line, footer = await exported_lines(source)
    with pytest.raises(TransferError, match=reason):
        await importing_lines(
            InMemoryEventStore(), [header, line.replace(b'"HERE"', f"[{number}]".encode()), footer]
        )


async def test_a_count_that_is_wrong_and_lines_after_the_end_are_refused(make_store):
    source, target = make_store(), make_store()
    await source.append(ONE, [new_event()])
    header, event, _ = await exported_lines(source)
    with pytest.raises(TransferError, match="counts 2 events, but 1 stand before it"):
        await importing_lines(target, [header, event, b'{"events": 2}\n'])
    with pytest.raises(TransferError, match="counts 1 events"):
        await importing_lines(target, [header, event, b'{"events":1,"payload":1}\n'])
    with pytest.raises(TransferError, match="something stands after the last line"):
        await importing_lines(target, [header, event, b'{"events": 1}\n', event])
    with pytest.raises(TransferError, match="cut after 1 events"):
        await importing_lines(target, [header, event])


@pytest.mark.parametrize(
    "change", [{"event_type": "Other"}, {"event_id": "00000000-0000-4000-8000-000000000001"}]
)
async def test_an_event_that_contradicts_what_is_stored_is_refused_with_what_stands_there(make_store, change):
    source, target = make_store(), make_store()
    events = [new_event() for _ in range(3)]
    for store in (source, target):
        await store.append(ONE, events)
    await source.append(TWO, [new_event(TWO)])
    lines = await exported_lines(source)
    lines[2] = changed(lines[2], **change)
    with pytest.raises(TransferError) as refused:
        await importing_lines(target, lines)
    assert refused.value.line == 3
    assert f"but Placed {events[1].event_id} in the store" in str(refused.value)


async def test_events_whose_beginning_is_missing_are_refused(make_store):
    source, target = make_store(), make_store()
    events = [new_event() for _ in range(5)]
    await source.append(ONE, events)
    await target.append(ONE, events[:1])
    header, *lines, _ = await exported_lines(source)
    with pytest.raises(TransferError, match="the store has only 1: import what comes before") as refused:
        await importing_lines(target, [header, *lines[3:], b'{"events": 2}\n'])
    assert refused.value.line == 2
    assert len(await contents(target)) == 1


async def test_an_id_that_another_stream_has_taken_is_refused(make_store):
    source, target = make_store(), make_store()
    events = [new_event() for _ in range(3)]
    await source.append(ONE, events)
    cart = StreamId("cart", "1")
    await target.append(cart, [new_event(cart, event_id=events[1].event_id)])
    with pytest.raises(TransferError, match="event id is taken by another event") as refused:
        await importing_lines(target, await exported_lines(source))
    assert refused.value.line == 3
    assert await target.current_version(ONE) == 1


async def test_an_id_that_stands_twice_in_a_file_is_refused(make_store):
    source, target = make_store(), make_store()
    await source.append(ONE, [new_event() for _ in range(3)])
    lines = await exported_lines(source)
    lines[3] = changed(lines[3], event_id=json.loads(lines[1])["event_id"])
    with pytest.raises(TransferError, match="is taken by another event") as refused:
        await importing_lines(target, lines)
    assert refused.value.line == 4
    assert await target.current_version(ONE) == 2


async def test_what_a_file_from_elsewhere_leaves_out_is_made_up(make_store):
    target = make_store()
    event = new_event(payload={"total": 1})
    line = {
        "aggregate_type": "order",
        "aggregate_id": "1",
        "version": 1,
        "event_id": str(event.event_id),
        "event_type": "Placed",
        "payload": {"total": 1},
        "occurred_at": "2026-01-31T12:00:00+01:00",
    }
    header = b'{"format": "k1s0-event-store", "version": 1}\n'
    await importing_lines(target, [header, json.dumps(line).encode() + b"\n", b'{"events": 1}\n'])
    (stored,) = await target.load(ONE)
    assert (stored.payload, stored.metadata, stored.occurred_at.hour) == ({"total": 1}, {}, 11)


async def test_files_that_end_in_zst_say_which_extra_they_need(make_store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "events.zst"
    with pytest.raises(ConfigurationError, match=r"pip install 'k1s0-event-store\[zstd\]'"):
        await export_events(make_store(), path)
    with pytest.raises(ConfigurationError, match="zstd"):
        await import_events(make_store(), path)
    assert list(tmp_path.iterdir()) == []


async def test_an_import_joins_the_callers_transaction(event_store):
    source = InMemoryEventStore()
    await source.append(ONE, [new_event()])
    lines = await exported_lines(source)
    async with event_store.bind.connect() as connection:
        await importing_lines(event_store.within(connection), lines)
        assert await event_store.within(connection).exists(ONE)
        await connection.rollback()
    assert await contents(event_store) == []


async def test_json_that_was_stored_in_several_lines_is_exported_in_one(event_store, sql):
    await event_store.append(ONE, [new_event(payload={"a": [1, 2.50]}, metadata={"b": 1})])
    sql("ALTER TABLE eventstore.events DISABLE TRIGGER ALL")
    sql("""UPDATE eventstore.events SET payload = E'{\n"a": [1,\n2.50]}', metadata = E'{"b":\n1}'""")
    lines = await exported_lines(event_store)
    target = InMemoryEventStore()
    await importing_lines(target, lines)
    assert (len(lines), await contents(target)) == (3, await contents(event_store))


async def test_what_is_stored_but_cannot_be_written_again_is_named(event_store, tmp_path):
    await event_store.append(ONE, [new_event()])
    async with event_store.bind.begin() as connection:
        for sql in ("DISABLE", "ENABLE"):
            await connection.exec_driver_sql(f"ALTER TABLE eventstore.events {sql} TRIGGER ALL")
            if sql == "DISABLE":
                number = f"{'9' * 400}.5"
                await connection.exec_driver_sql(f"UPDATE eventstore.events SET payload = '{number}'")
    with pytest.raises(CorruptDataError, match="version 1 of order-1 cannot be exported"):
        await export_events(event_store, tmp_path / "events")
