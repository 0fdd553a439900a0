"""Estimates: where the bound of a request's usage comes from."""

from collections.abc import Sequence

from sidecar.domain.identity import IdentitySource
from sidecar.domain.policy_reads import CREDENTIAL_HEADERS, identity_headers
from sidecar.domain.rules import EstimateFrom, EstimateRule, StatedBound, TokenSide
from sidecar.outbound.policy_files.references import Context
from sidecar.outbound.policy_files.schema_tests import TOKENS_MAX
from sidecar.outbound.policy_files.sections import Section

_HEADER_ONLY = ("headers", "max", "trusted")


def compile_estimates(
    context: Context, sections: Sequence[Section], identity: Sequence[IdentitySource]
) -> tuple[EstimateRule, ...]:
    """The estimates in order; what does not fit together is noted."""
    taken = CREDENTIAL_HEADERS.union(*(identity_headers(source) for source in identity))
    return tuple(_estimate(context, section, taken) for section in sections)


def _estimate(context: Context, section: Section, taken: frozenset[str]) -> EstimateRule:
    default = section.section("default")
    assert default is not None
    source = EstimateFrom(section.text("from"))
    stated: tuple[StatedBound, ...] = ()
    if source is EstimateFrom.HEADER:
        stated = _stated(context, section, taken)
    else:
        for key in _HEADER_ONLY:
            if section.given(key):
                context.problems.add(
                    section.place_of(key),
                    f"`{key}` stands beside from: {source.value}; it is allowed beside "
                    "from: header only",
                )
    return EstimateRule(
        match=context.matches(section),
        source=source,
        default_input=default.integer("input"),
        default_output=default.integer("output"),
        stated=stated,
        trusted=section.given("trusted") and section.flag("trusted"),
    )


def _stated(context: Context, section: Section, taken: frozenset[str]) -> tuple[StatedBound, ...]:
    headers, most = section.section("headers"), section.section("max")
    if headers is None or not headers.written:
        context.problems.add(
            section.place,
            "from: header needs `headers`; write headers: {input: NAME, output: NAME}, or one "
            "of them",
        )
        return ()
    found: list[StatedBound] = []
    for side in TokenSide:
        if not headers.given(side):
            if most is not None and most.given(side):
                context.problems.add(
                    most.place_of(side), f"`max` has {side.value}, for which `headers` names none"
                )
            continue
        name = headers.text(side)
        if name in taken:
            context.problems.add(
                headers.place_of(side),
                f"header {name!r} says who the caller is; a bound needs a header of its own",
            )
        if any(other.header == name for other in found):
            context.problems.add(
                headers.place_of(side), f"header {name!r} states two bounds; name one for each"
            )
        limit = None if most is None else most.optional_integer(side)
        found.append(StatedBound(side=side, header=name, most=limit or TOKENS_MAX))
    return tuple(found)
