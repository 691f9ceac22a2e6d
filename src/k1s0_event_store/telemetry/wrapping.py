"""What the wrappers share: everything that is not told of goes to what is wrapped."""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from k1s0_event_store.closing import AsyncClosing, SyncClosing

A = TypeVar("A", bound=AsyncClosing)
S = TypeVar("S", bound=SyncClosing)


class _Wrapper:
    """Attributes beyond the contract (config, bind, validate) are those of what is wrapped."""

    wrapped: Any

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped" or name.startswith("__"):  # a copy in the making has none yet
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.wrapped!r})"


class AsyncWrapper(_Wrapper, AsyncClosing, Generic[A]):
    """Opens and closes what it wraps."""

    wrapped: A

    async def close(self) -> None:
        await self.wrapped.close()

    async def __aenter__(self) -> Self:
        await self.wrapped.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.wrapped.__aexit__(*exc)


class SyncWrapper(_Wrapper, SyncClosing, Generic[S]):
    """AsyncWrapper for blocking code."""

    wrapped: S

    def close(self) -> None:
        self.wrapped.close()

    def __enter__(self) -> Self:
        self.wrapped.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.wrapped.__exit__(*exc)
