"""The tables of a small app with its own declarative models."""

from __future__ import annotations

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class AppBase(DeclarativeBase):
    """Metadata of the app's tables, without ours."""


class Order(AppBase):
    """A row of the app's business data."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    customer: Mapped[str] = mapped_column(Text)
    status: Mapped[str | None] = mapped_column(Text)
