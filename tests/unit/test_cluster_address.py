"""How a cluster is named, which slot a command is about, and what a node says of slots."""

import pytest
from redis.exceptions import InvalidResponse, MovedError

from sidecar.domain.errors import ConfigError
from sidecar.outbound.redis.cluster_plan import plan
from sidecar.outbound.redis.cluster_url import Node, is_cluster_url, parse_cluster_url
from sidecar.outbound.redis.keys import Keyspace
from sidecar.outbound.redis.slot_map import SlotMap, redirected_to, slot_of


def test_a_url_names_some_nodes_and_how_to_speak_with_all():
    address = parse_cluster_url(
        "rediss+cluster://ada:p%40ss@one:7000,[::1]:7001,two/0?ssl_ca_certs=/ca.pem"
    )
    assert address.seeds == (Node("one", 7_000), Node("::1", 7_001), Node("two", 6_379))
    assert (
        address.url(Node("10.0.0.9", 7_009))
        == "rediss://ada:p%40ss@10.0.0.9:7009/0?ssl_ca_certs=/ca.pem"
    )
    assert address.url(Node("::1", 7_001)).startswith("rediss://ada:p%40ss@[::1]:7001/0?")
    assert "p%40ss" not in repr(address)


def test_without_user_and_options_a_url_has_neither():
    address = parse_cluster_url("redis+cluster://one:7000,one:7000")
    assert address.seeds == (Node("one", 7_000),)
    assert address.url(address.seeds[0]) == "redis://one:7000/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://u:secret@",
        "redis+cluster://u:secret@one:7000,",
        "redis+cluster://u:secret@one:port",
        "redis+cluster://u:secret@one:0",
        "redis+cluster://u:secret@one:65536",
        "redis+cluster://u:secret@::1:7000",
        "redis+cluster://u:secret@one:7000/1",
        "redis+cluster://u:secret@one:7000#part",
        "redis+cluster://u:secret@" + ",".join(f"n{n}:1" for n in range(65)),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url):
    assert is_cluster_url(url)
    with pytest.raises(ConfigError) as refused:
        parse_cluster_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "unix:///s", "", "cluster://h"])
def test_other_urls_mean_one_server(url):
    assert not is_cluster_url(url)


def test_a_shards_keys_are_in_one_slot_and_shards_are_in_many():
    keys = Keyspace(64)
    slots = set()
    for shard in range(64):
        found = {
            slot_of(("HGET", key, "x"))
            for key in (keys.shard(shard), keys.usage(shard), keys.expiry(shard), keys.open(shard))
        }
        assert len(found) == 1
        slots |= found
    assert len(slots) == 64


def test_a_script_goes_by_its_first_key_and_a_message_by_its_channel():
    key = "sc:{s07}:c:cus_1"
    assert slot_of(("EVALSHA", "sha", 2, key, "other", "arg")) == slot_of(("GET", key.encode()))
    assert slot_of(("publish", key, "text")) == slot_of(("GET", key))
    assert slot_of(("EVAL", "return 1", 0, key)) is None
    assert slot_of(("TIME",)) is None


def test_what_has_no_key_goes_with_the_command_before_it():
    first, second = slot_of(("GET", "a")), slot_of(("GET", "b"))
    asks = plan([("TIME",), ("GET", "a"), ("GET", "b"), ("TIME",)])
    assert [ask.slot for ask in asks] == [first, first, second, second]
    assert [ask.keyless for ask in asks] == [True, False, False, True]
    assert len({ask.slot for ask in plan([("PING",), ("TIME",)])}) == 1


def test_a_map_follows_what_nodes_say():
    asked = Node("10.0.0.1", 7_000)
    slots = SlotMap.parse(
        [
            [0, 99, [b"10.0.0.1", 7_000, b"id"], [b"10.0.0.4", 7_000, b"id"]],
            [100, 199, [b"", 7_001, b"id"]],
            [200, 299, [None, 7_002, b"id", []]],
            [300, 399, [b"?", 7_003, b"id"]],
        ],
        asked,
    )
    at = {0: asked, 99: asked, 150: Node("10.0.0.1", 7_001), 200: Node("10.0.0.1", 7_002)}
    assert {slot: slots.owner(slot) for slot in at} == at
    assert slots.owner(300) is slots.owner(400) is None
    slots.move(400, Node("h", 1))
    assert slots.owner(400) == Node("h", 1)
    assert list(slots.masters) == [*dict.fromkeys(at.values()), Node("h", 1)]


@pytest.mark.parametrize(
    "reply", [b"OK", [[0]], [[0, 16_384, [b"h", 1]]], [[5, 4, [b"h", 1]]], [[0, 1, [b"h", b"p"]]]]
)
def test_a_map_of_another_form_is_refused(reply):
    with pytest.raises(InvalidResponse):
        SlotMap.parse(reply, Node("h", 1))


def test_a_redirection_without_a_host_means_the_one_that_was_asked():
    assert redirected_to(MovedError("7 :7001"), Node("h", 1)) == Node("h", 7_001)
    assert redirected_to(MovedError("7 ::1:7001"), Node("h", 1)) == Node("::1", 7_001)
