"""Settings of a store: a frozen value, from keywords, a mapping or a URL. Reads no environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from k1s0_event_store.exceptions import ConfigurationError

DEFAULT_SCHEMA: Final = "eventstore"

_SCHEMES: Final = frozenset(
    {"postgresql", "postgres", "postgresql+asyncpg", "postgres+asyncpg", "postgresql+psycopg", "postgres+psycopg"}
)
_SECRET_PARAMETERS: Final = frozenset({"password", "sslpassword"})
_PARTS: Final = {"host", "port", "name", "user", "password", "ssl_mode"}
_MASK: Final = "***"


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
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dsn is not None:
            check_dsn(self.dsn)
        check_schema(self.schema)
        for name, least in (
            ("snapshot_interval", 1), ("snapshots_kept", 1), ("pool_size", 0), ("max_overflow", -1), ("pool_recycle", -1)
        ):  # fmt: skip
            _check_number(name, getattr(self, name), least, int)
        for name in ("pool_timeout", "connect_timeout"):
            _check_number(name, getattr(self, name), 0, (int, float))

    @property
    def masked_dsn(self) -> str | None:
        """The DSN as it may be shown: without passwords."""
        return None if self.dsn is None else mask_dsn(self.dsn)

    def __repr__(self) -> str:
        shown = [f"dsn={self.masked_dsn!r}"]
        shown += [
            f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name not in {"dsn", "engine_options"}
        ]
        shown.append(f"engine_options={sorted(self.engine_options)}")
        return f"{type(self).__name__}({', '.join(shown)})"

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any]) -> Self:
        """From a section of a configuration file.

        Keys are the fields of this class; instead of `dsn` there may be `url`, or the parts
        `host`, `port`, `name`, `user`, `password`, `ssl_mode`.
        """
        given = dict(section)
        if "url" in given:
            given.setdefault("dsn", given.pop("url"))
        parts = {key: given.pop(key) for key in _PARTS & given.keys()}
        if parts and "dsn" in given:
            raise ConfigurationError(f"give either dsn or its parts ({', '.join(sorted(parts))}), not both")
        if parts:
            given["dsn"] = _dsn_from_parts(parts)
        unknown = given.keys() - {f.name for f in fields(cls)}
        if unknown:
            known = ", ".join(sorted({f.name for f in fields(cls)} | _PARTS | {"url"}))
            raise ConfigurationError(f"unknown settings: {', '.join(sorted(map(str, unknown)))}; known are {known}")
        return cls(**given)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """From one URL; `schema`, `snapshot_interval` and `snapshots_kept` may stand in its query."""
        check_dsn(url)
        split = urlsplit(url)
        settings: dict[str, Any] = {}
        rest: list[tuple[str, str]] = []
        for key, value in parse_qsl(split.query, keep_blank_values=True):
            if key == "schema":
                settings[key] = value
            elif key in {"snapshot_interval", "snapshots_kept"}:
                settings[key] = _parse_int(key, value)
            else:
                rest.append((key, value))
        return cls(dsn=urlunsplit(split._replace(query=urlencode(rest, quote_via=quote))), **settings)


def check_dsn(dsn: object) -> str:
    """Return `dsn` if it is a PostgreSQL URL, else raise ConfigurationError (never showing it)."""
    if not isinstance(dsn, str):
        raise ConfigurationError(f"dsn must be a string, not {type(dsn).__name__}")
    scheme, found, _ = dsn.partition("://")
    if not found or scheme not in _SCHEMES:
        hint = f"the scheme {scheme!r}" if found and re.fullmatch(r"[\w+.-]{1,40}", scheme) else "another form"
        raise ConfigurationError(
            f"dsn must be a URL like postgresql://user:password@host:5432/database, got {hint}"
        )
    try:
        urlsplit(dsn).netloc.encode()
    except ValueError:
        raise ConfigurationError("dsn is no valid URL: quote special characters in user and password") from None
    return dsn


def mask_dsn(dsn: str) -> str:
    """`dsn` with its passwords replaced."""
    split = urlsplit(dsn)
    user, at, hosts = split.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    netloc = f"{name}{colon}{_MASK if colon else ''}{at}{hosts}"
    query = "&".join(
        f"{part.partition('=')[0]}={_MASK}" if unquote(part.partition("=")[0]) in _SECRET_PARAMETERS else part
        for part in split.query.split("&")
    )
    return urlunsplit(split._replace(netloc=netloc, query=query))


def check_schema(schema: object) -> str:
    """Return `schema` if PostgreSQL takes it as a quoted name, else raise ConfigurationError."""
    if not isinstance(schema, str) or not schema:
        raise ConfigurationError(f"schema must be a string that is not empty, not {schema!r}")
    try:
        length = len(schema.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"schema must be Unicode text, not {schema!r}") from None
    if length > 63 or "\x00" in schema:
        raise ConfigurationError(f"schema must have at most 63 bytes and no NUL: {schema!r}")
    if schema.startswith("pg_") or schema == "information_schema":
        raise ConfigurationError(f"schema {schema!r} is reserved by PostgreSQL; choose another name")
    return schema


def _check_number(name: str, value: object, least: int, kind: type | tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:  # type: ignore[operator]
        raise ConfigurationError(f"{name} must be a number of at least {least}, not {value!r}")


def _parse_int(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigurationError(f"{name} must be a whole number, not {value!r}") from None


def _dsn_from_parts(parts: Mapping[str, Any]) -> str:
    missing = {"host", "name"} - parts.keys()
    if missing:
        raise ConfigurationError(f"the database's {' and '.join(sorted(missing))} must be given")
    user = quote(str(parts.get("user", "")), safe="")
    password = f":{quote(str(parts['password']), safe='')}" if parts.get("password") else ""
    query = f"?sslmode={quote(str(parts['ssl_mode']))}" if "ssl_mode" in parts else ""
    at = "@" if user else ""
    return f"postgresql://{user}{password}{at}{parts['host']}:{parts.get('port', 5432)}/{quote(str(parts['name']))}{query}"
