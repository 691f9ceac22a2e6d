"""A URL says which broker."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from k1s0_event_store.brokers.publisher import BrokerPublisher
from k1s0_event_store.exceptions import ConfigurationError

_KINDS: Final = {
    "kafka": ("kafka", "KafkaPublisher"),
    "nats": ("nats", "NatsPublisher"),
    "tls": ("nats", "NatsPublisher"),
    "amqp": ("rabbitmq", "RabbitPublisher"),
    "amqps": ("rabbitmq", "RabbitPublisher"),
    "redis": ("redis", "RedisPublisher"),
    "rediss": ("redis", "RedisPublisher"),
}


def publisher_for(url: str, *, timeout: float = 10.0) -> BrokerPublisher:
    """The publisher for the broker at `url`: kafka://, nats://, amqp:// or redis://.

    `timeout`: seconds to wait for a connection, and for an acknowledgement. Raises ConfigurationError
    for a URL that is none of these, or if the broker's extra is not installed.
    """
    scheme, found, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
    if not found or scheme not in _KINDS:
        raise ConfigurationError(f"a broker's URL begins with one of {', '.join(f'{k}://' for k in _KINDS)}")
    extra, name = _KINDS[scheme]
    try:
        module = import_module(f"k1s0_event_store.brokers.{extra}")
    except ImportError as error:
        raise ConfigurationError(
            f"{scheme}:// needs an extra: pip install 'k1s0-event-store[{extra}]'"
        ) from error
    publisher: BrokerPublisher = getattr(module, name)(url, timeout=timeout)
    return publisher
