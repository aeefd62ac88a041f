"""The runbook's pictures: the status page and RabbitMQ's management UI under load, made in a real browser."""
