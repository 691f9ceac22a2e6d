"""One operation as others see it: a span, a duration, and the type of the error that it ended with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Final

from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from k1s0_event_store.exceptions import DatabaseError
from k1s0_event_store.telemetry.conventions import DB_STATUS_CODE, ERROR_TYPE

Attributes = Mapping[str, AttributeValue]

_NOTHING: Final[Attributes] = {}


class Operation:
    """A block whose span is the current one inside it.

    `labels` go with the span and with the duration, `details` with the span alone. What an error
    says may hold payload: its type is told, never its text. `answers` are errors that are no failure.
    """

    __slots__ = (
        "_answers", "_context", "_details", "_duration", "_kind", "_labels", "_links", "_name", "_started",
        "_token", "_tracer", "span",
    )  # fmt: skip

    span: Span

    def __init__(
        self,
        tracer: Tracer,
        duration: Histogram,
        name: str,
        kind: SpanKind,
        labels: Attributes,
        details: Attributes = _NOTHING,
        *,
        context: Context | None = None,
        links: Sequence[Link] | None = None,
        answers: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._tracer = tracer
        self._duration = duration
        self._name = name
        self._kind = kind
        self._labels = labels
        self._details = details
        self._context = context
        self._links = links
        self._answers = answers

    def start(self) -> Span:
        """Begin; the span is not the current one yet."""
        self._started = perf_counter()
        attributes = {**self._labels, **self._details}
        self.span = self._tracer.start_span(
            self._name, self._context, self._kind, attributes, self._links,
            record_exception=False, set_status_on_exception=False,
        )  # fmt: skip
        return self.span

    def end(self, error: BaseException | None) -> None:
        """Tell how it ended."""
        labels = self._labels
        if error is not None and not isinstance(error, self._answers):
            labels = {**labels, ERROR_TYPE: type_of(error)}
            self.span.set_attribute(ERROR_TYPE, labels[ERROR_TYPE])
            if isinstance(error, DatabaseError) and error.sqlstate is not None:
                self.span.set_attribute(DB_STATUS_CODE, error.sqlstate)
            self.span.set_status(StatusCode.ERROR)
        self._duration.record(perf_counter() - self._started, labels)
        self.span.end()

    def __enter__(self) -> Span:
        span = self.start()
        self._token = attach(set_span_in_context(span))
        return span

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        detach(self._token)
        self.end(error)


class DetachedOperation(Operation):
    """For generators: code of others runs between two items, so the span is not the current one."""

    __slots__ = ()

    def __enter__(self) -> Span:
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.end(None if isinstance(error, GeneratorExit) else error)


def type_of(error: BaseException) -> str:
    """The class of an error, with its module unless it is one of Python's own."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
