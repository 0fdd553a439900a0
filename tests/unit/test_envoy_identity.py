"""What Envoy verified of a caller: read from its own fields alone."""

from dataclasses import replace

import pytest
import re2
from fixtures.grpc_edges import answer_of, call_with, check_handler, check_request
from fixtures.http_edges import World, make_policy
from fixtures.tokens import encoded

from sidecar.domain.decisions import Allow
from sidecar.domain.identity import CertificateSource, ClaimNames, HeaderSource, JwtSource
from sidecar.inbound.envoy.claims import FIELDS_MAX, LEVEL_BYTES_MAX, MetadataClaims, StructClaims
from sidecar.wire import envoy_core_pb2 as core

AUTHN = "envoy.filters.http.jwt_authn"


def struct(values) -> core.Struct:
    made = core.Struct()
    for name, value in values.items():
        field = made.fields.add(key=name if isinstance(name, bytes) else name.encode())
        match value:
            case bool():
                field.value.bool_value = value
            case float() | int():
                field.value.number_value = value
            case str():
                field.value.string_value = value.encode()
            case bytes():
                field.value.string_value = value
            case dict():
                field.value.struct_value = struct(value).SerializeToString()
            case list():
                field.value.list_value = core.ListValue().SerializeToString()
            case None:
                field.value.null_value = 0
    return made


def with_metadata(*namespaces, **options):
    request = check_request(**options)
    for name, values in namespaces:
        entry = request.attributes.metadata_context.filter_metadata.add(key=name.encode())
        entry.value.CopyFrom(struct(values))
    return request


async def world_of(*sources) -> World:
    world = World(policy=replace(make_policy(), identity=sources))
    await world.customer()
    return world


async def principal_of(request) -> str:
    seen = []

    class Checks:
        async def check(self, request):
            seen.append(request.verified.principal)
            return Allow(decision_id=request.decision_id)

    await check_handler(World(), checks=Checks()).check(request.SerializeToString(), call_with())
    return seen[0]


async def answered(world, request):
    raw = await check_handler(world).check(request.SerializeToString(), call_with())
    return answer_of(raw)


JWT = JwtSource(metadata=AUTHN, names=ClaimNames(customer="sub", user="user"))
NO_KEY = {"authorization": "Basic none"}


async def test_what_jwt_authn_verified_is_charged():
    world = await world_of(JWT)
    request = with_metadata((AUTHN, {"jwt_payload": {"sub": "cus_1", "user": 7}}), headers=NO_KEY)
    assert (await answered(world, request)).status.code == 0
    assert world.held() > 0
    (terms,) = world.tokens.signed.values()
    assert (terms.customer_id, terms.user_id) == ("cus_1", "7")


@pytest.mark.parametrize(
    "namespace", ["envoy.lb", "envoy.filters.http.ext_authz", "sub", AUTHN.upper(), AUTHN + "\0"]
)
async def test_claims_in_another_namespace_are_nobodys(namespace):
    world = await world_of(JWT)
    request = with_metadata((namespace, {"jwt_payload": {"sub": "cus_1"}}), headers=NO_KEY)
    assert (await answered(world, request)).denied_response.status.code == 401
    assert world.held() == 0


async def test_metadata_of_the_route_and_headers_that_look_like_it_are_nobodys():
    world = await world_of(JWT)
    headers = NO_KEY | {
        AUTHN: encoded({"sub": "cus_1"}),
        "x-envoy-metadata": encoded({AUTHN: {"sub": "cus_1"}}),
        "authorization": f"Bearer {encoded({'alg': 'none'})}.{encoded({'sub': 'cus_1'})}.",
    }
    request = with_metadata(headers=headers)
    entry = request.attributes.route_metadata_context.filter_metadata.add(key=AUTHN.encode())
    entry.value.CopyFrom(struct({"sub": "cus_1"}))
    assert (await answered(world, request)).denied_response.status.code == 401


async def test_a_namespace_or_a_claim_that_stands_twice_is_nobodys():
    twice = [(AUTHN, {"sub": "cus_1"}), (AUTHN, {"sub": "cus_2"})]
    assert (
        await answered(await world_of(JWT), with_metadata(*twice))
    ).denied_response.status.code == 401
    request = with_metadata((AUTHN, {"sub": "cus_1"}))
    (entry,) = request.attributes.metadata_context.filter_metadata
    entry.value.fields.add(key=b"sub").value.string_value = b"cus_2"
    assert (await answered(await world_of(JWT), request)).denied_response.status.code == 401


async def test_a_certificates_name_is_charged():
    source = CertificateSource(pattern=re2.compile("spiffe://mesh.test/(?P<customer>[^/]+)"))
    world = await world_of(source)
    request = check_request(headers=NO_KEY)
    request.attributes.source.principal = b"spiffe://mesh.test/cus_1"
    assert (await answered(world, request)).status.code == 0
    assert world.held() > 0


@pytest.mark.parametrize(
    "principal",
    [
        b"",
        b"spiffe://mesh.test/cus_1\n",
        b"spiffe://mesh.test/cus\x00_1",
        b"spiffe://mesh.test/cus_1\xff",
        b"spiffe://mesh.test/cus_1" + b"/" * 70_000,
        b"URI=spiffe://mesh.test/cus_1",
    ],
)
async def test_a_certificates_name_that_is_odd_is_nobodys(principal):
    source = CertificateSource(pattern=re2.compile("spiffe://mesh.test/(?P<customer>[^/]+)"))
    world = await world_of(source)
    copies = {"x-forwarded-client-cert": "URI=spiffe://mesh.test/cus_1"}
    request = check_request(headers=NO_KEY | copies)
    request.attributes.source.principal = principal
    assert (await answered(world, request)).denied_response.status.code == 401


async def test_octets_that_are_no_utf_8_make_no_two_names_one():
    latin, utf = check_request(), check_request()
    latin.attributes.source.principal = "k\xe9y".encode("latin-1")
    utf.attributes.source.principal = "k\xe9y".encode()
    names = [await principal_of(request) for request in (latin, utf)]
    assert names == ["k\udce9y", "k\xe9y"]


@pytest.mark.parametrize("value", ["", "cus_1,cus_1", "cus_1\x85"])
async def test_a_trusted_header_that_is_odd_is_nobodys(value):
    world = await world_of(HeaderSource(customer="x-customer"))
    request = check_request(headers={"x-customer": value})
    assert (await answered(world, request)).denied_response.status.code == 401


async def test_a_trusted_header_is_charged_and_a_repeated_one_is_401():
    world = await world_of(HeaderSource(customer="x-customer"))
    request = check_request(headers={"x-customer": "cus_1"})
    assert (await answered(world, request)).status.code == 0
    request.attributes.request.http.headers.add(key=b"x-customer", value=b"cus_1")
    assert (await answered(world, request)).denied_response.status.code == 401


# The claims as they are read


def claims_of(values):
    return StructClaims(struct(values))


def test_each_kind_of_value_is_read_or_left_out():
    values = {"text": "t", "number": 1.5, "flag": True, "inner": {"a": "b"}}
    found = claims_of(values | {"list": ["x"], "null": None, "octets": b"\xff", b"\xff": "x"})
    assert sorted(found) == sorted(values)
    assert len(found) == 4
    assert (found["text"], found["number"], found["flag"]) == ("t", 1.5, True)
    assert dict(found["inner"]) == {"a": "b"}
    for name in ("list", "null", "octets", "missing", "\udcff"):
        assert found.get(name) is None


def test_a_level_is_read_only_when_it_is_asked_for():
    deep = b""
    for _ in range(500):
        outer = core.Struct()
        outer.fields.add(key=b"a").value.struct_value = deep
        deep = outer.SerializeToString()
    made = struct({"sub": "cus_1"})
    made.fields.add(key=b"deep").value.struct_value = deep
    made.fields.add(key=b"broken").value.struct_value = b"\xff\xff"
    found = StructClaims(made)
    assert found["sub"] == "cus_1"
    assert found.get("broken") is None
    level = found
    for _ in range(8):
        level = level["deep" if level is found else "a"]


def test_levels_beyond_the_limits_hold_nothing():
    many = claims_of({f"k{number}": "v" for number in range(FIELDS_MAX + 1)})
    assert many.get("k1") is None
    assert claims_of({"inner": {"a": "x" * LEVEL_BYTES_MAX}}).get("inner") is None
    assert claims_of({"inner": {"a": "x" * 1_000}})["inner"]["a"]


def test_namespaces_are_told_as_they_are():
    metadata = core.Metadata()
    for key in (b"b", b"a", b"a", b"\xff"):
        metadata.filter_metadata.add(key=key)
    found = MetadataClaims(metadata)
    assert list(found) == ["b", "a"]
    assert len(found) == 2
    assert found.get("c") is None
    assert dict(found["a"]) == {}
