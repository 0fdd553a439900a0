"""Which of Envoy's routes send their body to the check, from the policy's own patterns."""

from collections.abc import Callable, Iterable, Iterator

from sidecar.domain.errors import ConfigError
from sidecar.domain.expressions import Expression
from sidecar.domain.matching import Match
from sidecar.domain.meters import Meter
from sidecar.domain.policy import Policy
from sidecar.domain.rules import Mode
from sidecar.inbound.envoy.attributes import TOLD_MAX
from sidecar.inbound.envoy.bootstrap_options import EnvoyRoute, LlmProtocol

UPSTREAM = "upstream"
_ANYTHING = (Match(),)
"""What a part of the policy without a match is about."""

PROTOCOL_BY_PATH = (
    ("chat", LlmProtocol.OPENAI_CHAT_COMPLETIONS),
    ("messages", LlmProtocol.ANTHROPIC_MESSAGES),
    ("responses", LlmProtocol.OPENAI_RESPONSES),
    ("generateContent", LlmProtocol.GEMINI_GENERATE_CONTENT),
)
"""What a path says of the answers behind it. Left to guess, Envoy looks for OpenAI's `object`,
which compatible servers often leave out, and would then report no usage."""


_BODY_VARIABLES = (
    "request.body",
    "request.fields",
    "request.bytes",
    "request.model",
    "request.input_tokens",
    "request.output_tokens",
)
"""What conditions read that is known from the body alone."""


def policy_routes(policy: Policy) -> tuple[EnvoyRoute, ...]:
    """
    A route for each pattern that a meter watches or whose rules read bodies, then one for all else.

    Every route is checked, free ones too: what is free is the policy's word, which may change
    while Envoy runs. Only the body, which most checks of an unpriced route do not need, is left
    out there.
    """
    priced = [match for rule in policy.meters for match in rule.match or _ANYTHING]
    reading = list(_matches_reading_bodies(policy))
    names = dict.fromkeys(_numbers(priced), "priced")
    names |= {number: "body" for number in _numbers(reading) if number not in names}
    routes = [
        # The policy searches a path for its patterns; Envoy's must match the whole path.
        EnvoyRoute(
            name=f"{name}-{count}",
            regex=f".*(?:{policy.routes.patterns[number]}).*",
            upstream=UPSTREAM,
            priced=True,
            protocol=guess_protocol(policy.routes.patterns[number]),
        )
        for count, (number, name) in enumerate(names.items(), 1)
    ]
    everything = any(not match.names_routes for match in (*priced, *reading))
    rest = EnvoyRoute(name="other", prefix="/", upstream=UPSTREAM, priced=everything)
    return (*routes, rest)


def _numbers(matches: Iterable[Match]) -> list[int]:
    """The patterns of matches, each once, in the order of their first use."""
    return list(dict.fromkeys(number for match in matches for number in sorted(match.routes)))


def _matches_reading_bodies(policy: Policy) -> Iterator[Match]:
    """What looks at the body beyond the estimate of a price: conditions of any part."""
    for rule in policy.rules:
        if rule.mode is Mode.DRAFT:
            continue
        reads = rule.when is not None and _reads_body(rule.when)
        yield from (match for match in rule.match or _ANYTHING if reads or match.body)
    others = (
        *(entry.match for entry in policy.estimates),
        *(entry.match for entry in policy.meters),
        *(entry.match for entry in policy.dialects),
    )
    yield from (match for matches in others for match in matches if match.body)


def _reads_body(when: Expression) -> bool:
    return any(
        path == name or path.startswith((f"{name}.", f"{name}["))
        for path in when.reads
        for name in _BODY_VARIABLES
    )


def meter_headers(policy: Policy) -> tuple[str, ...]:
    """
    Response headers that meters read, for the log to tell.

    Raises:
        ConfigError: If there are more than one entry may tell.
    """
    return _told(policy, "response headers", lambda meter: meter.response_headers)


def meter_metadata(policy: Policy) -> tuple[str, ...]:
    """Paths of the dynamic metadata that meters read or group by. Raises ConfigError likewise."""
    return _told(policy, "paths of metadata", lambda meter: meter.metadata_paths)


def meters_untold(policy: Policy) -> tuple[str, ...]:
    """Meters that read what none of Envoy's logs tells: the usage object or the body itself."""
    return tuple(
        rule.meter.name
        for rule in policy.meters
        if any(name.startswith(("usage.raw", "response.body")) for name in rule.meter.parsed.reads)
    )


def _told(policy: Policy, what: str, reads: Callable[[Meter], frozenset[str]]) -> tuple[str, ...]:
    named = sorted({name for rule in policy.meters for name in reads(rule.meter)})
    if len(named) > TOLD_MAX:
        raise ConfigError(f"the meters read {len(named)} {what}; a log entry tells {TOLD_MAX}")
    return tuple(named)


def guess_protocol(pattern: str) -> LlmProtocol | None:
    """The shape of answers that a path's name promises; None lets Envoy guess from each."""
    for part, protocol in PROTOCOL_BY_PATH:
        if part in pattern:
            return protocol
    return None
