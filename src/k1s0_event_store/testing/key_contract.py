"""The contract suite of key stores: what every one must show. For authors of vaults.

Subclass the classes in a test module and provide the fixture `keys` (a KeyStore), new and empty for
each test:

    class TestMyVault(KeyStoreContract, RacingKeysContract):
        @pytest.fixture
        def keys(self): ...

RacingKeysContract is for stores that can be called concurrently; one bound to a session cannot.
Needs pytest-asyncio in auto mode.
"""

# ruff: noqa: S101 - a test suite that is shipped

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from k1s0_event_store.exceptions import InvalidInputError, StoreClosedError
from k1s0_event_store.keys import DataKey, KeyStore
from k1s0_event_store.testing.contract import ODD_NAMES

ADA, BOB = "customer-ada", "customer-bob"
RACERS = 16


async def key_of(keys: KeyStore, subject: str) -> DataKey:
    """The key of one subject."""
    return (await keys.for_subjects([subject]))[subject]


class KeyStoreContract:
    """Making, finding and forgetting keys."""

    async def test_a_subject_has_one_key_which_stays(self, keys: KeyStore) -> None:
        first = await keys.for_subjects([ADA, BOB])
        assert await keys.for_subjects([BOB, ADA]) == first
        assert await keys.for_subjects([ADA]) == {ADA: first[ADA]}

    async def test_keys_have_random_ids_and_secrets(self, keys: KeyStore) -> None:
        made = await keys.for_subjects([ADA, BOB])
        assert made.keys() == {ADA, BOB}
        assert made[ADA].key_id != made[BOB].key_id
        assert made[ADA].secret != made[BOB].secret
        for key in made.values():
            assert str(UUID(key.key_id, version=4)) == key.key_id
            assert len(set(key.secret)) > 1

    async def test_known_and_new_subjects_can_be_asked_for_together(self, keys: KeyStore) -> None:
        ada = await key_of(keys, ADA)
        both = await keys.for_subjects([BOB, ADA])
        assert both[ADA] == ada
        assert both[BOB] == await key_of(keys, BOB)

    @pytest.mark.parametrize("collection", [list, tuple, set, frozenset, dict.fromkeys])
    async def test_subjects_come_in_any_collection(self, keys: KeyStore, collection: Any) -> None:
        made = await keys.for_subjects(collection([ADA, BOB, ADA]))
        assert made.keys() == {ADA, BOB}
        found = await keys.find(collection([made[ADA].key_id, made[ADA].key_id]))
        assert found == {made[ADA].key_id: made[ADA]}

    async def test_nothing_is_asked_for(self, keys: KeyStore) -> None:
        assert await keys.for_subjects([]) == {}
        assert await keys.find([]) == {}

    async def test_a_thousand_subjects_at_once(self, keys: KeyStore) -> None:
        made = await keys.for_subjects([f"customer-{number}" for number in range(1000)])
        assert len({key.key_id for key in made.values()}) == 1000
        assert await keys.find([key.key_id for key in made.values()]) == {k.key_id: k for k in made.values()}

    async def test_find_gives_the_keys_that_exist(self, keys: KeyStore) -> None:
        ada, bob = (await keys.for_subjects([ADA, BOB])).values()
        assert await keys.find([ada.key_id, str(uuid4()), bob.key_id]) == {ada.key_id: ada, bob.key_id: bob}

    async def test_an_id_that_no_key_can_have_is_not_found(self, keys: KeyStore) -> None:
        ada = await key_of(keys, ADA)
        odd = ["", ADA, "x" * 300, "nul\x00", "\ud800", "%s", ada.key_id.upper(), f"{{{ada.key_id}}}"]
        assert await keys.find(odd) == {}

    async def test_a_forgotten_key_is_gone_and_no_other(self, keys: KeyStore) -> None:
        ada, bob = (await keys.for_subjects([ADA, BOB])).values()
        assert await keys.forget(ADA) is True
        assert await keys.find([ada.key_id, bob.key_id]) == {bob.key_id: bob}
        assert await key_of(keys, BOB) == bob

    async def test_who_has_no_key_cannot_be_forgotten(self, keys: KeyStore) -> None:
        assert await keys.forget(ADA) is False
        await keys.for_subjects([ADA])
        assert [await keys.forget(ADA), await keys.forget(ADA)] == [True, False]

    async def test_after_forgetting_a_subject_gets_another_key(self, keys: KeyStore) -> None:
        before = await key_of(keys, ADA)
        await keys.forget(ADA)
        after = await key_of(keys, ADA)
        assert after.key_id != before.key_id
        assert after.secret != before.secret
        assert await keys.find([before.key_id, after.key_id]) == {after.key_id: after}

    async def test_any_text_of_1_to_255_characters_is_a_subject_of_its_own(self, keys: KeyStore) -> None:
        subjects = {*ODD_NAMES, "Ada", "ada", "ada ", "A\u030a", "\u00c5", "{personal_keys}"}
        made = await keys.for_subjects(subjects)
        assert made.keys() == subjects
        assert len({key.key_id for key in made.values()}) == len(subjects)
        for subject in subjects:
            assert await keys.forget(subject)

    @pytest.mark.parametrize("wrong", ["", "x" * 256, "nul\x00", "\ud800", 5, None, b"ada"])
    async def test_what_is_no_subject_is_refused_and_nothing_made(self, keys: KeyStore, wrong: Any) -> None:
        with pytest.raises(InvalidInputError, match="subject"):
            await keys.for_subjects([ADA, wrong])
        with pytest.raises(InvalidInputError, match="subject"):
            await keys.forget(wrong)
        assert await keys.forget(ADA) is False

    @pytest.mark.parametrize("wrong", [ADA, None, 5])
    async def test_one_string_is_no_collection(self, keys: KeyStore, wrong: Any) -> None:
        with pytest.raises(InvalidInputError, match="subjects must be a list or set"):
            await keys.for_subjects(wrong)
        with pytest.raises(InvalidInputError, match="key_ids must be a list or set"):
            await keys.find(wrong)

    async def test_no_text_shows_a_secret(self, keys: KeyStore) -> None:
        made = await keys.for_subjects([ADA])
        shown = f"{keys!r} {keys!s} {made!r} {made[ADA]!s}"
        assert made[ADA].key_id in shown
        assert made[ADA].secret.hex() not in shown
        assert repr(made[ADA].secret) not in shown

    async def test_a_closed_store_refuses_every_call(self, keys: KeyStore) -> None:
        async with keys:
            await keys.for_subjects([ADA])
        for call in (keys.for_subjects([]), keys.for_subjects([ADA]), keys.find([]), keys.forget(ADA)):
            with pytest.raises(StoreClosedError):
                await call


class RacingKeysContract:
    """Many callers at the same time."""

    async def test_racing_writers_get_the_same_keys(self, keys: KeyStore) -> None:
        subjects = [f"customer-{number}" for number in range(8)]
        turned = [subjects[n % 8 :] + subjects[: n % 8] for n in range(RACERS)]
        first, *others = await asyncio.gather(*map(keys.for_subjects, turned))
        assert all(other == first for other in others)
        assert await keys.find([key.key_id for key in first.values()]) == {
            k.key_id: k for k in first.values()
        }

    async def test_only_one_of_racing_forgetters_deletes_the_key(self, keys: KeyStore) -> None:
        await keys.for_subjects([ADA])
        done = await asyncio.gather(*(keys.forget(ADA) for _ in range(RACERS)))
        assert sorted(done) == [False] * (RACERS - 1) + [True]

    async def test_forgetting_races_with_making(self, keys: KeyStore) -> None:
        made: list[DataKey] = []
        answers: list[bool] = []

        async def make() -> None:
            for _ in range(20):
                made.append(await key_of(keys, ADA))

        async def forget() -> None:
            for _ in range(20):
                answers.append(await keys.forget(ADA))

        await asyncio.gather(*(work() for _ in range(RACERS // 2) for work in (make, forget)))
        ids = {key.key_id for key in made}
        last = await key_of(keys, ADA)
        # Every key that was ever made was forgotten once, but for the last.
        assert len(ids | {last.key_id}) == answers.count(True) + 1
        assert await keys.find([*ids, last.key_id]) == {last.key_id: last}
