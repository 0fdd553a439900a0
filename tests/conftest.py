"""Fixtures for every folder: the servers that tests share."""

from fixtures.redis_cluster import _shared_cluster, own_redis_cluster, redis_cluster
from fixtures.redis_fixture import redis_socket, redis_url
from hypothesis import settings

__all__ = [
    "_shared_cluster",
    "own_redis_cluster",
    "redis_cluster",
    "redis_socket",
    "redis_url",
]

# An example's time says how busy the machine is, not whether the code is right.
settings.register_profile("sidecar", deadline=None)
settings.load_profile("sidecar")
