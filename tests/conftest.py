"""Fixtures for every folder: the servers that tests share."""

from fixtures.redis_fixture import redis_socket, redis_url

__all__ = ["redis_socket", "redis_url"]
