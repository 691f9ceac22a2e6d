"""Helpers shared by the adapters."""

from urllib.parse import parse_qs, unquote, urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5


def stream_uuid(stream: str) -> UUID:
    return uuid5(NAMESPACE_URL, stream)


def parse_dsn(dsn: str) -> dict:
    """postgresql://user:pw@host:port/db?host=/sockdir -> dict(user,password,host,port,dbname)."""
    url = urlsplit(dsn)
    query = parse_qs(url.query)
    return {
        "user": unquote(url.username or "postgres"),
        "password": unquote(url.password or ""),
        "host": (query.get("host") or [url.hostname or "localhost"])[0],
        "port": str(url.port or (query.get("port") or ["5432"])[0]),
        "dbname": url.path.lstrip("/"),
    }
