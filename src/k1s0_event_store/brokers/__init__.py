"""Publishers for real brokers, through FastStream's. Each is an extra: kafka, nats, rabbitmq, redis."""
