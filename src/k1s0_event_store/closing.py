"""A store is closed at the end of a `with` block, or by `close`."""

from __future__ import annotations

from typing import Self


class AsyncClosing:
    """A store for asyncio that may hold something open."""

    async def close(self) -> None:
        """Release what the store itself opened."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


class SyncClosing:
    """AsyncClosing for blocking code."""

    def close(self) -> None:
        """See AsyncClosing.close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
