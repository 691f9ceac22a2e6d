"""One place where errors of the drivers and SQLAlchemy become ours: by SQLSTATE, never by text."""

from __future__ import annotations

from typing import Final

import asyncpg
from sqlalchemy import exc as sa_exc

from k1s0_event_store.exceptions import (
    AuthenticationError,
    ChainBrokenError,
    DatabaseError,
    DeadlockError,
    EventStoreError,
    PermissionDeniedError,
    SchemaError,
    StoreUnavailableError,
    TenantRequiredError,
    TransactionRequiredError,
)


class UniqueViolationError(DatabaseError):
    """SQLSTATE 23505 and the constraint's name."""

    def __init__(self, message: str, constraint: str | None) -> None:
        super().__init__(message, "23505")
        self.constraint = constraint


class SerializationFailureError(DatabaseError):
    """SQLSTATE 40001: REPEATABLE READ or SERIALIZABLE could not keep its promise."""

    retryable = True


class LockNotAvailableError(DatabaseError):
    """SQLSTATE 55P03: lock_timeout passed."""

    retryable = True


class InsufficientResourcesError(DatabaseError):
    """SQLSTATE class 53: the disk is full, or memory or a limit is used up, until somebody makes room."""

    retryable = True


class ReadOnlyError(DatabaseError):
    """SQLSTATE 25006: a standby, until it is promoted; or a transaction that only reads."""

    retryable = True


class ConnectionLostError(StoreUnavailableError):
    """The connection broke after a statement was sent."""


class RowsDroppedError(DatabaseError):
    """SQLSTATE 22012, which our own append raises when a trigger or rule swallowed an event."""


# SQLSTATEs of our own, of classes that nobody else uses.
TENANT_REQUIRED: Final = "K1T01"
"""What tables that keep tenants apart raise where none is set."""
CHAIN_BROKEN: Final = "K1S01"
"""What the trigger of the hash chain raises where an event is missing."""
_ASYNCPG_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_AUTHENTICATION: Final = frozenset({"28000", "28P01", "3D000"})
_SCHEMA: Final = frozenset({"42P01", "42703", "3F000", "42883", "42704", "42P10"})
_LOST: Final = frozenset({"57P01", "57P02", "57P05", "25P03", "25P04"})
"""Told as the server hangs up: it shuts down, or the session or its transaction was idle or open too long."""
_UNAVAILABLE: Final = frozenset({"57P03", "53300"})


def translate(error: BaseException, schema: str, *, connecting: bool = False) -> EventStoreError | None:
    """Our error for one of a driver or of SQLAlchemy; None where it is not about the database."""
    cause = _driver_error(error)
    state: str | None = getattr(cause, "sqlstate", None)
    message = str(cause).strip() or type(cause).__name__
    if state in _AUTHENTICATION or (connecting and _sent_a_password(cause)):
        return AuthenticationError(f"PostgreSQL refused the connection: {message}")
    if state in _UNAVAILABLE or (state in _LOST and connecting):
        return StoreUnavailableError(f"PostgreSQL does not take connections: {message}")
    if connecting and (state is None or state.startswith("08")) and _is_database_error(error, cause):
        return StoreUnavailableError(f"PostgreSQL cannot be reached: {message}")
    if state in _LOST or (state or "").startswith("08") or _is_lost(error, cause):
        return ConnectionLostError(f"the connection to PostgreSQL broke: {message}")
    if state is not None:
        return _from_state(state, cause, message, schema)
    return DatabaseError(message) if _is_database_error(error, cause) else None


def _from_state(state: str, cause: BaseException, message: str, schema: str) -> EventStoreError:
    if state == "23505":
        return UniqueViolationError(message, _constraint(cause))
    if state == "40001":
        return SerializationFailureError(message, state)
    if state == "55P03":
        return LockNotAvailableError(message, state)
    if state.startswith("53"):
        return InsufficientResourcesError(
            f"the server lacks room: {message}; nothing was stored, make room and repeat it", state
        )
    if state == "25006":
        return ReadOnlyError(
            f"this server or transaction only reads: {message}; to write, connect to the primary (a DSN that "
            "names all servers finds it with target_session_attrs=read-write)",
            state,
        )
    if state == "40P01":
        return DeadlockError(f"PostgreSQL ended this transaction to resolve a deadlock: {message}")
    if state == "25P01":
        return TransactionRequiredError(
            "the connection is in AUTOCOMMIT, where nothing commits together: give one in a transaction"
        )
    if state == TENANT_REQUIRED:
        return tenant_required(schema)
    if state == "42501":
        return PermissionDeniedError(f"the role lacks a right: {message}")
    if state in _SCHEMA:
        return SchemaError(schema, (message,))
    if state == CHAIN_BROKEN:
        return ChainBrokenError(
            f"{message}; nothing was stored: k1s0-event-store verify says what is missing"
        )
    if state == "22012":
        return RowsDroppedError(
            "a trigger or rule on the events table dropped a row; nothing was stored", state
        )
    return DatabaseError(message, state)


def tenant_required(schema: str) -> TenantRequiredError:
    """For a store that was given no tenant."""
    return TenantRequiredError(
        f"the tables in schema {schema!r} keep tenants apart: say whose rows are meant, with "
        "EventStoreConfig(tenant=...) or --tenant"
    )


def is_out_of_step(error: BaseException) -> bool:
    """True if asyncpg cannot go on: the server has said goodbye while the connection was idle.

    That its end has not come yet is why the driver takes the connection for open.
    """
    return isinstance(error, asyncpg.InternalClientError)


def _driver_error(error: BaseException) -> BaseException:
    """The driver's own exception: under SQLAlchemy's, and under its asyncpg adapter's."""
    cause = error
    if isinstance(error, sa_exc.DBAPIError) and error.orig is not None:
        cause = error.orig
    return cause.__cause__ if isinstance(cause.__cause__, _ASYNCPG_ERRORS) else cause


def _constraint(cause: BaseException) -> str | None:
    """asyncpg keeps the name on the exception, psycopg in its diagnostics."""
    source = getattr(cause, "diag", cause)
    name = getattr(source, "constraint_name", None)
    return name if isinstance(name, str) else None


def _sent_a_password(cause: BaseException) -> bool:
    """libpq gives no SQLSTATE for a refused login, but tells that the server asked for a password."""
    return bool(getattr(getattr(cause, "pgconn", None), "used_password", False))


def _is_lost(error: BaseException, cause: BaseException) -> bool:
    if is_out_of_step(cause):
        return True
    if isinstance(error, sa_exc.DBAPIError):
        return error.connection_invalidated
    return isinstance(error, asyncpg.InterfaceError | OSError)


def _is_database_error(error: BaseException, cause: BaseException) -> bool:
    return isinstance(error, sa_exc.DBAPIError | sa_exc.TimeoutError) or isinstance(
        cause, (*_ASYNCPG_ERRORS, OSError)
    )
