"""Settings of a store: a frozen value, from keywords, a mapping or a URL. Reads no environment."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from sys import float_info
from typing import Any, Final, Self
from urllib.parse import SplitResult, quote, unquote

from k1s0_event_store.exceptions import ConfigurationError, shown
from k1s0_event_store.limits import DEFAULT_LIMITS, LIMITS, Limits

DEFAULT_SCHEMA: Final = "eventstore"

_SCHEMES: Final = frozenset(
    name + driver for name in ("postgresql", "postgres") for driver in ("", "+asyncpg", "+psycopg")
)
_URL: Final = re.compile(r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
"""Of RFC 3986, appendix B."""
_HOST: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?")
_SECRET_PARAMETERS: Final = frozenset({"password", "sslpassword"})
_PARTS: Final = frozenset({"host", "port", "name", "user", "password", "ssl_mode"})
_LEAST: Final = {
    "snapshot_interval": 1,
    "snapshots_kept": 1,
    "pool_size": 0,
    "max_overflow": -1,
    "pool_recycle": -1,
}
_TOO_MANY: Final = 2**63
"""Of anything; Python cannot even print a number of thousands of digits."""
_MASK: Final = "***"
_TENANT_BYTES: Final = 200
"""It stands in every key of every row."""


@dataclass(frozen=True, kw_only=True, repr=False)
class EventStoreConfig:
    """Where the store lives and how it behaves.

    `dsn`: a PostgreSQL URL; `postgres://`, `postgresql://` and SQLAlchemy's `+asyncpg` and
    `+psycopg` forms mean the same, each store uses its own driver; libpq parameters such as
    `sslmode` are understood. None where an engine or sessionmaker of the app's is given to the store.
    `schema`: the schema of our tables; any name PostgreSQL takes, it is always quoted.
    `snapshot_interval`: events after which a new snapshot is due.
    `snapshots_kept`: snapshots of one stream that stay when a new one is saved.
    `pool_size` to `connect_timeout` (seconds): passed to SQLAlchemy's pool and the driver.
    `transaction_pooler`: True behind a pooler in transaction mode (PgBouncer): nothing is prepared.
    `notify`: appends wake up the subscriptions that listen (PostgreSQL's NOTIFY): an event is handled
    milliseconds after its commit, and many small appends at the same time become slower.
    `tenant`: whose rows these are, in tables that keep tenants apart: no others are seen or written.
    `limits`: how large an event, a batch and a state may be; see Limits.
    `engine_options`: more keywords for `create_engine`, as they are.

    Raises ConfigurationError, a ValueError, that says which setting is wrong.
    """

    dsn: str | None = None
    schema: str = DEFAULT_SCHEMA
    snapshot_interval: int = 50
    snapshots_kept: int = 2
    pool_size: int = 10
    max_overflow: int = 10
    pool_timeout: float = 30.0
    pool_recycle: int = -1
    pool_pre_ping: bool = False
    connect_timeout: float = 10.0
    application_name: str = "k1s0-event-store"
    transaction_pooler: bool = False
    notify: bool = False
    tenant: str | None = None
    limits: Limits = DEFAULT_LIMITS
    engine_options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.dsn is not None:
            check_dsn(self.dsn)
        check_schema(self.schema)
        for name, least in _LEAST.items():
            _check_whole_number(name, getattr(self, name), least)
        for name in ("pool_timeout", "connect_timeout"):
            _check_seconds(name, getattr(self, name))
        for name in ("pool_pre_ping", "transaction_pooler", "notify"):
            check_switch(name, getattr(self, name))
        if self.tenant is not None:
            check_tenant(self.tenant)
        _check_type("application_name", self.application_name, str, "a string")
        _check_type("limits", self.limits, Limits, "Limits(...)")
        _check_type("engine_options", self.engine_options, Mapping, "a mapping")

    @property
    def masked_dsn(self) -> str | None:
        """The DSN as it may be shown: without passwords."""
        return None if self.dsn is None else mask_dsn(self.dsn)

    def __repr__(self) -> str:
        shown = [f"dsn={self.masked_dsn!r}"]
        names = [f.name for f in fields(self) if f.name not in {"dsn", "engine_options"}]
        shown += [f"{name}={getattr(self, name)!r}" for name in names]
        shown.append(f"engine_options={sorted(map(str, self.engine_options))}")
        return f"{type(self).__name__}({', '.join(shown)})"

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any]) -> Self:
        """From a section of a configuration file.

        Keys are the fields of this class; instead of `dsn` there may be `url`, or the parts
        `host`, `port`, `name`, `user`, `password`, `ssl_mode`. `limits` is a section of its own.
        """
        _check_type("a section of the configuration", section, Mapping, "a mapping of settings")
        names = {f.name for f in fields(cls)}
        unknown = section.keys() - names - _PARTS - {"url"}
        if unknown:
            raise ConfigurationError(
                f"unknown settings: {', '.join(sorted(map(str, unknown)))}; "
                f"known are {', '.join(sorted({*names, *_PARTS, 'url'}))}"
            )
        given = {key: value for key, value in section.items() if key in names}
        if isinstance(section.get("limits"), Mapping):
            given["limits"] = _limits_from(section["limits"])
        dsn = _dsn_from_section(section)
        return cls(**given) if dsn is None else cls(**{**given, "dsn": dsn})

    @classmethod
    def from_url(cls, url: str) -> Self:
        """From one URL; `schema`, `snapshot_interval` and `snapshots_kept` may stand in its query."""
        split = split_url(check_dsn(url))
        settings: dict[str, Any] = {}
        rest: list[str] = []
        for part in _query_parts(split):
            key, value = (unquote(text) for text in part.split("=", 1))
            if key == "schema":
                settings[key] = value
            elif key in {"snapshot_interval", "snapshots_kept"}:
                settings[key] = _parse_int(key, value)
            else:
                rest.append(part)
        return cls(dsn=join_url(split._replace(query="&".join(rest))), **settings)


def _limits_from(section: Mapping[str, Any]) -> Limits:
    """Limits from a section of a configuration file; raises ConfigurationError."""
    unknown = section.keys() - {*LIMITS}
    if unknown:
        raise ConfigurationError(
            f"unknown limits: {', '.join(sorted(map(str, unknown)))}; known are {', '.join(LIMITS)}"
        )
    return Limits(**section)


def split_url(url: str) -> SplitResult:
    """The parts of `url`; the standard library refuses several hosts, newly where one is an IPv6 address."""
    return SplitResult(*next(_URL.finditer(url)).groups(""))  # any text has this form


def join_url(parts: SplitResult) -> str:
    """The URL of `parts`; the standard library would drop the // where there is no host."""
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path}{query}"


def check_dsn(dsn: object) -> str:
    """Return `dsn` if it is a PostgreSQL URL, else raise ConfigurationError (never showing it)."""
    if not isinstance(dsn, str):
        raise ConfigurationError(f"dsn must be a string, not {type(dsn).__name__}")
    scheme, found, _ = dsn.partition("://")
    if not found or scheme not in _SCHEMES:
        named = found and re.fullmatch(r"[\w+.-]{1,40}", scheme)
        raise ConfigurationError(
            "dsn must be a URL like postgresql://user:password@host:5432/database, got "
            + (f"the scheme {scheme!r}" if named else "another form")
        )
    if not is_url(dsn):
        raise ConfigurationError(
            "dsn is no valid URL: ports are numbers, the query is key=value&key=value, and special "
            "characters in user, password and database are quoted (@ as %40, / as %2F, # as %23)"
        )
    return dsn


def is_url(url: str) -> bool:
    """False too where a special character in a password would be taken for the end of the host."""
    try:
        url.encode()
    except ValueError:
        return False
    split = split_url(url)
    user, _, hosts = split.netloc.rpartition("@")
    return (
        all(_HOST.fullmatch(host) for host in hosts.split(","))
        and not set("@[]") & set(user)
        and "@" not in split.path
        and "#" not in url
        and all("=" in part for part in _query_parts(split))
    )


def _query_parts(split: SplitResult) -> list[str]:
    return [part for part in split.query.split("&") if part]


def mask_dsn(dsn: str) -> str:
    """`dsn` with its passwords replaced."""
    split = split_url(dsn)
    user, at, hosts = split.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "&".join(map(_mask_parameter, _query_parts(split)))
    netloc = f"{name}{colon}{_MASK if colon else ''}{at}{hosts}"
    return join_url(split._replace(netloc=netloc, query=query))


def _mask_parameter(part: str) -> str:
    key = part.partition("=")[0]
    return f"{key}={_MASK}" if unquote(key) in _SECRET_PARAMETERS else part


def check_schema(schema: object) -> str:
    """Return `schema` if PostgreSQL takes it as a quoted name, else raise ConfigurationError."""
    name = _check_name("schema", schema, 63)
    if name.startswith("pg_") or name == "information_schema":
        raise ConfigurationError(f"schema {shown(name)} is reserved by PostgreSQL; choose another name")
    return name


def check_tenant(tenant: object) -> str:
    """Return `tenant` if rows can be kept under that name, else raise ConfigurationError."""
    return _check_name("tenant", tenant, _TENANT_BYTES)


def _check_name(what: str, name: object, most: int) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{what} must be a string that is not empty, not {shown(name)}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} must be Unicode text, not {shown(name)}") from None
    if length > most or "\x00" in name:
        raise ConfigurationError(f"{what} must have at most {most} bytes and no NUL: {shown(name)}")
    return name


def check_switch(name: str, value: object) -> None:
    """Refuse what is neither True nor False; raises ConfigurationError."""
    _check_type(name, value, bool, "True or False")


def _check_type(name: str, value: object, kind: type, wanted: str) -> None:
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be {wanted}, not {type(value).__name__}")


def _check_whole_number(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _TOO_MANY:
        raise ConfigurationError(f"{name} must be a whole number of at least {least}, not {shown(value)}")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= float_info.max:
        raise ConfigurationError(f"{name} must be seconds from 0 on, not {shown(value)}")


def _parse_int(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigurationError(f"{name} must be a whole number, not {shown(value)}") from None


def _dsn_from_section(section: Mapping[str, Any]) -> str | None:
    """The one of `dsn`, `url` and the parts that is given; an empty one counts as not given."""
    ways: dict[str, Any] = {key: section[key] for key in ("dsn", "url") if section.get(key) is not None}
    parts = {key: section[key] for key in _PARTS & section.keys() if section[key] not in (None, "")}
    if parts:
        ways[f"its parts ({', '.join(sorted(parts))})"] = _dsn_from_parts(parts)
    if len(ways) > 1:
        raise ConfigurationError(f"give one of {' and '.join(ways)}, not both")
    return next(iter(ways.values()), None)


def _dsn_from_parts(parts: Mapping[str, Any]) -> str:
    missing = {"host", "name"} - parts.keys()
    if missing:
        raise ConfigurationError(f"the database's {' and '.join(sorted(missing))} must be given")
    text = {key: _quoted(key, value) for key, value in parts.items()}
    login = text.get("user", "") + (f":{text['password']}" if "password" in text else "")
    at = "@" if login else ""
    query = f"?sslmode={text['ssl_mode']}" if "ssl_mode" in text else ""
    host, port = _host(str(parts["host"])), _port(parts.get("port", 5432))
    return f"postgresql://{login}{at}{host}:{port}/{text['name']}{query}"


def _quoted(name: str, value: object) -> str:
    try:
        return quote(str(value), safe="")
    except (ValueError, RecursionError):  # it may be the password: it is not shown
        raise ConfigurationError(f"the database's {name} cannot be part of a URL") from None


def _host(host: str) -> str:
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        return quote(host, safe="")


def _port(port: object) -> int:
    number = _parse_int("port", str(port))
    if not 0 < number < 65536:
        raise ConfigurationError(f"port must be from 1 to 65535, not {shown(port)}")
    return number
