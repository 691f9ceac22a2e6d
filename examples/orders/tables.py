"""The app's own tables, beside those of the event store in the same database."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All of them."""


class UsedCoupon(Base):
    """A coupon works once, in one order of all: a unique key can promise that, a single stream cannot."""

    __tablename__ = "used_coupons"
    code: Mapped[str] = mapped_column(primary_key=True)
    order_id: Mapped[str]


class Demand(Base):
    """The read model: how many pieces of a product were ordered. Only the projection writes it."""

    __tablename__ = "demand"
    product: Mapped[str] = mapped_column(primary_key=True)
    pieces: Mapped[int]
