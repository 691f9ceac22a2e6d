"""Where the app is mounted, behind whatever proxy."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class WholePath:
    """Routes and links need a path that begins with the root path.

    Behind a proxy that takes its prefix away, and an app that is told it (`FastAPI(root_path=...)`),
    it does not: the prefix is put back.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(scope.get("root_path", "")):
            scope = {**scope, "path": scope.get("app_root_path", "") + scope["path"]}
        await self._app(scope, receive, send)
