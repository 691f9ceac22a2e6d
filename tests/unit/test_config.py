"""The configuration: every way to spell it, what is refused, and passwords that never show."""

import dataclasses
import math
import pickle
from types import MappingProxyType
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k1s0_event_store import ConfigurationError, EventStoreConfig, EventStoreError, Limits
from k1s0_event_store.config import check_schema

SCHEMES = [
    "postgresql", "postgres", "postgresql+asyncpg", "postgres+asyncpg", "postgresql+psycopg",
    "postgres+psycopg",
]  # fmt: skip
SECRETS = [
    "hunter2secret",
    "p@ss@secret",
    "se:cret:",
    "p/secret",
    "100%secret",
    "secret%40",
    "?secret#",
    "[secret",
]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "rest",
    [
        "user:pass@localhost/k1s0",
        "localhost",
        "localhost:5432/db?sslmode=require&application_name=app",
        "user@[::1]:5432/db",
        "user@[fe80::1%25eth0]/db",
        "h1:5432,h2:5433,h3/db?target_session_attrs=read-write",
        "%2Fvar%2Frun%2Fpostgresql/db",
        "/db?host=/var/run/postgresql",
        "/db?user=me@corp&password=x",
        "",
    ],
)
def test_a_postgresql_url_is_taken_as_it_is(scheme, rest):
    assert EventStoreConfig(dsn=f"{scheme}://{rest}").dsn == f"{scheme}://{rest}"


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("mysql://root:secret@h/db", "got the scheme 'mysql'"),
        ("postgresql+psycopg2://u:secret@h/db", r"got the scheme 'postgresql\+psycopg2'"),
        ("host=h user=u password=secret", "got another form"),
        ("u:secret@h/db", "got another form"),
        ("my secret words://h", "got another form"),
        ("", "got another form"),
        ("postgresql:/h/db", "got another form"),
        (5432, "dsn must be a string, not int"),
        (b"postgresql://h/db", "dsn must be a string, not bytes"),
        ("postgresql://u:secret@h:port/db", "ports are numbers"),
        ("postgresql://u:p/secret@h/db", "quoted"),
        ("postgresql://u:12/secret@h/db", "quoted"),
        ("postgresql://u:12#secret@h/db", "quoted"),
        ("postgresql://u:12?secret@h/db", "quoted"),
        ("postgresql://u:[secret@h/db", "quoted"),
        ("postgresql://u:1@secret@h/db", "quoted"),  # drivers take the host to begin at the first @
        ("postgresql://u:secret\ud800@h/db", "no valid URL"),
        ("postgresql://u:secret@h/db?sslmode", "key=value"),
    ],
)
def test_another_dsn_is_refused_and_not_shown(dsn, reason):
    with pytest.raises(ConfigurationError, match=reason) as refused:
        EventStoreConfig(dsn=dsn)
    assert isinstance(refused.value, ValueError)
    assert isinstance(refused.value, EventStoreError)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("part", ["host", "name", "user", "password"])
@pytest.mark.parametrize("value", ["secret\ud800", 10**5_000], ids=["a lone surrogate", "a huge number"])
def test_a_part_that_no_url_can_hold_is_refused_and_not_shown(part, value):
    parts = {"host": "h", "name": "db", "user": "u", part: value}
    with pytest.raises(ConfigurationError, match=f"^the database's {part} cannot be part of a URL$"):
        EventStoreConfig.from_mapping(parts)


@pytest.mark.parametrize("name", ["pool_size", "snapshot_interval", "pool_timeout", "schema"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_that_python_cannot_print_is_refused(name, sign):
    with pytest.raises(ConfigurationError, match="not a number of 16610 bits"):
        EventStoreConfig(**{name: sign * 10**5_000})


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "form",
    [
        "postgresql://user:{}@localhost:5432/k1s0",
        "postgresql+asyncpg://user:{}@h1:1,h2:2/k1s0?sslmode=require",
        "postgresql://localhost/k1s0?user=user&password={}",
        "postgresql://localhost/k1s0?password={}&sslpassword={}",
        "postgresql://user:{}@localhost/k1s0?pass%77ord={}",
        "postgresql://:{}@localhost/k1s0",
    ],
)
def test_passwords_are_masked_everywhere(form, secret):
    config = EventStoreConfig(dsn=form.replace("{}", quote(secret, safe="")))
    for shown in (repr(config), str(config), f"{config}", config.masked_dsn):
        assert "***" in shown
        assert "secret" not in unquote(shown)
    assert "k1s0" in config.masked_dsn


@given(st.text(min_size=1))
def test_a_password_that_nobody_quoted_is_refused_or_masked(password):
    marked = f"<secret>{password}<secret>"
    try:
        shown = repr(EventStoreConfig(dsn=f"postgresql://user:{marked}@localhost/db"))
    except ConfigurationError as refused:
        shown = str(refused)
    assert "secret" not in shown


def test_masking_leaves_everything_else_as_it_is():
    dsn = "postgresql://us%20er@h1:1,[::1]:2/d%2Fb?sslmode=require&options=-c%20x"
    assert EventStoreConfig(dsn=dsn).masked_dsn == dsn
    assert EventStoreConfig().masked_dsn is None


def test_the_values_of_engine_options_are_never_shown():
    config = EventStoreConfig(engine_options={"connect_args": {"password": "secret"}, "echo": True})
    assert "engine_options=['connect_args', 'echo']" in repr(config)
    assert "secret" not in repr(config)


def test_a_refused_section_does_not_show_its_password():
    with pytest.raises(ConfigurationError) as refused:
        EventStoreConfig.from_mapping({"host": "h", "name": "n", "password": "secret", "pasword": "secret"})
    assert "unknown settings: pasword" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_defaults_are_those_of_the_documentation():
    config = EventStoreConfig()
    assert (config.dsn, config.schema, config.snapshot_interval, config.snapshots_kept) == (
        None,
        "eventstore",
        50,
        2,
    )
    assert (config.pool_size, config.max_overflow, config.transaction_pooler) == (10, 10, False)


def test_a_config_is_frozen_hashable_and_pickled():
    config = EventStoreConfig(dsn="postgresql://h/db", engine_options={"echo": True})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.schema = "other"
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  # our own bytes
    assert hash(config) == hash(dataclasses.replace(config))
    assert dataclasses.replace(config, schema="other") != config


@pytest.mark.parametrize(
    "schema", ["eventstore", "Event Store", 'a"b', "s-1", "😀" * 15, "x" * 63, "select", "; --"]
)
def test_any_name_that_postgresql_takes_is_a_schema(schema):
    assert EventStoreConfig(schema=schema).schema == schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("", "not empty"),
        (None, "must be a string"),
        (7, "must be a string"),
        ("x" * 64, "at most 63 bytes"),
        ("😀" * 16, "at most 63 bytes"),
        ("a\x00b", "no NUL"),
        ("\ud800", "Unicode"),
        ("pg_events", "reserved by PostgreSQL; choose another"),
        ("information_schema", "reserved by PostgreSQL"),
    ],
)
def test_another_schema_is_refused(schema, reason):
    with pytest.raises(ConfigurationError, match=reason):
        EventStoreConfig(schema=schema)


@pytest.mark.parametrize("tenant", ["acme", "Ünï 'quoted\" %s", "; --", "x" * 200, "pg_catalog", " "])
def test_any_text_names_a_tenant(tenant):
    assert EventStoreConfig(tenant=tenant).tenant == tenant


@pytest.mark.parametrize(
    ("tenant", "reason"),
    [
        ("", "not empty"), (7, "must be a string"), ("x" * 201, "at most 200 bytes"), ("a\x00b", "no NUL"),
        ("\ud800", "Unicode"),
    ],
)  # fmt: skip
def test_another_tenant_is_refused(tenant, reason):
    with pytest.raises(ConfigurationError, match=reason):
        EventStoreConfig(tenant=tenant)


@given(st.text())
def test_a_schema_is_taken_or_refused_with_the_typed_error(schema):
    try:
        assert check_schema(schema) == schema
        assert 1 <= len(schema.encode()) <= 63
    except ConfigurationError:
        is_reserved = schema[:3] == "pg_" or schema == "information_schema"
        assert is_reserved or not schema or "\x00" in schema or len(schema.encode(errors="replace")) > 63


NUMBERS = {
    "snapshot_interval": 1,
    "snapshots_kept": 1,
    "pool_size": 0,
    "max_overflow": -1,
    "pool_recycle": -1,
}


@pytest.mark.parametrize(("name", "least"), NUMBERS.items())
def test_a_whole_number_has_a_least_value(name, least):
    assert getattr(EventStoreConfig(**{name: least}), name) == least
    for value in (least - 1, True, False, 1.0, "5", None, math.nan):
        with pytest.raises(
            ConfigurationError, match=f"{name} must be a whole number of at least {least}, not"
        ):
            EventStoreConfig(**{name: value})


@pytest.mark.parametrize("name", ["pool_timeout", "connect_timeout"])
def test_a_time_limit_is_in_seconds(name):
    for value in (0, 3, 0.5):
        assert getattr(EventStoreConfig(**{name: value}), name) == value
    for value in (-1, -0.1, math.nan, math.inf, True, "5", None):
        with pytest.raises(ConfigurationError, match=f"{name} must be seconds from 0 on"):
            EventStoreConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("transaction_pooler", "false", "must be True or False, not str"),
        ("transaction_pooler", 0, "must be True or False, not int"),
        ("pool_pre_ping", None, "must be True or False"),
        ("application_name", None, "must be a string"),
        ("engine_options", None, "must be a mapping"),
        ("engine_options", [("echo", True)], "must be a mapping"),
    ],
)
def test_a_setting_of_the_wrong_type_is_refused_by_name(name, value, reason):
    with pytest.raises(ConfigurationError, match=f"{name} {reason}"):
        EventStoreConfig(**{name: value})


def test_a_section_may_hold_every_field():
    given_values = {
        "dsn": "postgresql://h/db", "schema": "s", "snapshot_interval": 7, "snapshots_kept": 3,
        "pool_size": 1, "max_overflow": 0, "pool_timeout": 1.5, "pool_recycle": 60, "pool_pre_ping": True,
        "connect_timeout": 2, "notify": True, "tenant": "acme",
        "application_name": "app", "transaction_pooler": True, "limits": Limits(payload=9),
        "engine_options": {"echo": False},
    }  # fmt: skip
    assert given_values.keys() == {field.name for field in dataclasses.fields(EventStoreConfig)}
    config = EventStoreConfig.from_mapping(MappingProxyType(given_values))
    assert {name: getattr(config, name) for name in given_values} == given_values


def test_a_section_may_say_url_and_is_only_read():
    section = {"url": "postgresql://h/db", "schema": "s"}
    assert EventStoreConfig.from_mapping(section) == EventStoreConfig(dsn="postgresql://h/db", schema="s")
    assert section == {"url": "postgresql://h/db", "schema": "s"}


@pytest.mark.parametrize(
    ("section", "dsn"),
    [
        ({"host": "h", "name": "db"}, "postgresql://h:5432/db"),
        ({"host": "h", "name": "db", "user": "u"}, "postgresql://u@h:5432/db"),
        ({"host": "h", "name": "db", "port": "6432"}, "postgresql://h:6432/db"),
        ({"host": "h", "name": "db", "user": "u", "password": None, "port": 1}, "postgresql://u@h:1/db"),
        ({"host": "h", "name": "db", "user": "", "password": "", "ssl_mode": ""}, "postgresql://h:5432/db"),
        (
            {"host": "h", "name": "db", "ssl_mode": "verify-full"},
            "postgresql://h:5432/db?sslmode=verify-full",
        ),
        ({"host": "::1", "name": "db"}, "postgresql://[::1]:5432/db"),
        ({"host": "/run/pg", "name": "a/b"}, "postgresql://%2Frun%2Fpg:5432/a%2Fb"),
        ({"host": "h", "name": "db", "password": "p@"}, "postgresql://:p%40@h:5432/db"),
        ({"url": None, "dsn": None, "host": "h", "name": "db"}, "postgresql://h:5432/db"),
    ],
)
def test_a_section_may_hold_the_parts_of_the_dsn(section, dsn):
    assert EventStoreConfig.from_mapping(section).dsn == dsn


@given(st.text(min_size=1).filter(lambda text: text.isascii() or text.isalnum()))
def test_parts_are_quoted(text):
    dsn = EventStoreConfig.from_mapping({"host": "h", "name": text, "user": text, "password": text}).dsn
    split = urlsplit(dsn)
    assert [unquote(part) for part in (split.username, split.password, split.path[1:])] == [text] * 3
    assert (split.hostname, split.port) == ("h", 5432)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"scheme": "s"}, "unknown settings: scheme; known are .*schema"),
        ({1: 2, "dns": ""}, "unknown settings: 1, dns; known are"),
        ({"dsn": "postgresql://h/db", "url": "postgresql://h/db"}, "give one of dsn and url, not both"),
        (
            {"dsn": "postgresql://h/db", "host": "h", "name": "db"},
            r"give one of dsn and its parts \(host, name\)",
        ),
        ({"url": "postgresql://h/db", "host": "h", "name": "db"}, "give one of url and its parts"),
        ({"host": "h"}, "database's name must be given"),
        ({"name": "db"}, "database's host must be given"),
        ({"user": "u"}, "database's host and name must be given"),
        ({"host": "h", "name": "db", "port": "abc"}, "port must be a whole number, not 'abc'"),
        ({"host": "h", "name": "db", "port": 0}, "port must be from 1 to 65535"),
        ({"host": "h", "name": "db", "port": 65536}, "port must be from 1 to 65535"),
        ({"schema": None}, "schema must be a string"),
        ({"snapshot_interval": "50"}, "snapshot_interval must be a whole number"),
        (None, "must be a mapping of settings, not NoneType"),
        ("dsn", "must be a mapping of settings, not str"),
        ([("schema", "s")], "must be a mapping of settings, not list"),
    ],
)
def test_a_section_that_says_too_much_or_too_little_is_refused(section, reason):
    with pytest.raises(ConfigurationError, match=reason):
        EventStoreConfig.from_mapping(section)


def test_one_url_may_carry_settings_of_the_store():
    config = EventStoreConfig.from_url(
        "postgresql://u:p%40@h/db?schema=my%20events&sslmode=require&snapshot_interval=7&snapshots_kept=3"
    )
    assert config.dsn == "postgresql://u:p%40@h/db?sslmode=require"
    assert (config.schema, config.snapshot_interval, config.snapshots_kept) == ("my events", 7, 3)


@pytest.mark.parametrize("dsn", ["postgresql://h/db", "postgresql://h/db?password=a+b%2Bc&options=-c%20x=1"])
def test_the_rest_of_the_url_stays_as_it_is(dsn):
    assert EventStoreConfig.from_url(dsn) == EventStoreConfig(dsn=dsn)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://h/db", "got the scheme 'mysql'"),
        ("postgresql://h/db?schema=", "schema must be a string that is not empty"),
        ("postgresql://h/db?schema=pg_x", "reserved"),
        (
            "postgresql://h/db?snapshot_interval=often",
            "snapshot_interval must be a whole number, not 'often'",
        ),
        ("postgresql://h/db?snapshots_kept=0", "snapshots_kept must be a whole number of at least 1"),
        ("postgresql://h/db?snapshots_kept", "key=value"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url, reason):
    with pytest.raises(ConfigurationError, match=reason):
        EventStoreConfig.from_url(url)


@pytest.mark.parametrize("url", ["postgresql:///app?host=/run/postgresql", "postgresql:///app"])
def test_a_url_without_a_host_keeps_its_form(url):
    config = EventStoreConfig.from_url(f"{url}{'&' if '?' in url else '?'}schema=mine")
    assert (config.dsn, config.masked_dsn, config.schema) == (url, url, "mine")
