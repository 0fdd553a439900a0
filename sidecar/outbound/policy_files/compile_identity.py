"""Identity sources of a policy, and what is wrong between their keys and among them."""

from collections.abc import Sequence

from sidecar.domain.identity import (
    CREDENTIAL_HEADER,
    ApiKeySource,
    CertificateSource,
    ClaimNames,
    ConsumerSource,
    HeaderSource,
    IdentitySource,
    JwtSource,
)
from sidecar.outbound.policy_files.places import Problems
from sidecar.outbound.policy_files.schema_identity import ALGORITHMS_DEFAULT
from sidecar.outbound.policy_files.sections import Section

SOURCES_MAX = 32
_HERE_ONLY = ("jwks", "audiences", "algorithms", "remove")


def compile_identity(sections: Sequence[Section], problems: Problems) -> tuple[IdentitySource, ...]:
    """The sources in order; every problem is noted."""
    if len(sections) > SOURCES_MAX:
        problems.add(
            sections[SOURCES_MAX].place,
            f"the policy has {len(sections)} identity sources; at most {SOURCES_MAX} are allowed",
        )
    found = [(section, _source(section, problems)) for section in sections]
    sources = [(section, source) for section, source in found if source is not None]
    _check_order(sources, problems)
    return tuple(source for _, source in sources)


def _source(section: Section, problems: Problems) -> IdentitySource | None:
    (kind,) = section.written
    inner = section.section(kind)
    assert inner is not None
    match kind:
        case "api_key":
            return ApiKeySource(headers=inner.texts("headers"), remove=inner.flag("remove"))
        case "jwt":
            return _jwt(inner, problems)
        case "certificate":
            return CertificateSource(pattern=inner.values["pattern"].value)
        case "consumer":
            return ConsumerSource(field=inner.text("field"))
    return HeaderSource(
        customer=inner.text("customer"), team=inner.text("team"), user=inner.text("user")
    )


def _jwt(section: Section, problems: Problems) -> JwtSource | None:
    problem = _jwt_problem(section)
    if problem:
        problems.add(section.place, problem)
        return None
    return JwtSource(
        names=ClaimNames(
            customer=section.text("claim"),
            team=section.text("team_claim"),
            user=section.text("user_claim"),
        ),
        metadata=section.text("metadata"),
        payload=section.text("payload"),
        issuer=section.text("issuer"),
        jwks=section.text("jwks"),
        audiences=section.texts("audiences"),
        algorithms=section.texts("algorithms") or ALGORITHMS_DEFAULT,
        remove=section.flag("remove") if section.given("remove") else True,
    )


def _jwt_problem(section: Section) -> str:
    if section.given("metadata"):
        if section.given("issuer"):
            return (
                "jwt names both metadata and issuer; metadata: the gateway verified the token, "
                "issuer and jwks: it is verified here; write an entry for each"
            )
        extra = [key for key in _HERE_ONLY if section.given(key)]
        if extra:
            return f"{', '.join(extra)} stands beside metadata; it is allowed beside issuer only"
        return ""
    if not section.given("issuer"):
        return "jwt names no verifier; expected metadata, or issuer and jwks"
    if not section.given("jwks"):
        return "jwt has an issuer but no jwks; expected the URL or file of the issuer's keys"
    if section.given("payload"):
        return "payload stands beside issuer; it is allowed beside metadata only"
    return ""


def _check_order(sources: Sequence[tuple[Section, IdentitySource]], problems: Problems) -> None:
    """Note sources that could never say anything, and headers that would be two things."""
    issuers: set[str] = set()
    keys: set[str] = set()
    for section, source in sources:
        if isinstance(source, ApiKeySource):
            keys |= set(source.headers)
        if not isinstance(source, JwtSource) or not source.verified_here:
            continue
        if CREDENTIAL_HEADER in keys:
            problems.add(
                section.place,
                "this source would never be asked: an api_key before it takes every "
                f"{CREDENTIAL_HEADER} header; write it before the api_key",
            )
        if source.issuer in issuers:
            problems.add(
                section.place,
                f"issuer {source.issuer[:80]!r} stands twice; the first decides on its tokens",
            )
        issuers.add(source.issuer)
    tokens = {CREDENTIAL_HEADER} if issuers else set()
    for section, source in sources:
        if isinstance(source, HeaderSource):
            for name in sorted({*source.headers} & (keys | tokens)):
                problems.add(
                    section.place,
                    f"header {name!r} carries a credential already; a name is not secret, "
                    "so it needs a header of its own",
                )
