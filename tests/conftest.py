"""Fixtures for every folder: the servers that tests share."""

from fixtures.redis_cluster import _shared_cluster, own_redis_cluster, redis_cluster
from fixtures.redis_fixture import redis_socket, redis_url

__all__ = [
    "_shared_cluster",
    "own_redis_cluster",
    "redis_cluster",
    "redis_socket",
    "redis_url",
]
