"""From the store to a broker: events and enqueued messages, at least once and in order."""
