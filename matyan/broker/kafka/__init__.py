"""Kafka as a broker, by confluent-kafka. The only package that imports it, but for `cli/`."""
