"""Which of Envoy's routes send their body to the check, from the policy's own patterns."""

from collections.abc import Callable

from sidecar.domain.errors import ConfigError
from sidecar.domain.meters import Meter
from sidecar.domain.policy import Policy
from sidecar.inbound.envoy.attributes import TOLD_MAX
from sidecar.inbound.envoy.bootstrap_options import EnvoyRoute, LlmProtocol

UPSTREAM = "upstream"

PROTOCOL_BY_PATH = (
    ("chat", LlmProtocol.OPENAI_CHAT_COMPLETIONS),
    ("messages", LlmProtocol.ANTHROPIC_MESSAGES),
    ("responses", LlmProtocol.OPENAI_RESPONSES),
    ("generateContent", LlmProtocol.GEMINI_GENERATE_CONTENT),
)
"""What a path says of the answers behind it. Left to guess, Envoy looks for OpenAI's `object`,
which compatible servers often leave out, and would then report no usage."""


def policy_routes(policy: Policy) -> tuple[EnvoyRoute, ...]:
    """
    A route for each pattern that a meter watches, then one for everything else.

    Every route is checked, free ones too: what is free is the policy's word, which may change
    while Envoy runs. Only the body, which a check of an unpriced route does not need, is left
    out there.
    """
    patterns = dict.fromkeys(
        policy.routes.patterns[number]
        for rule in policy.meters
        for match in rule.match
        for number in sorted(match.routes)
    )
    everything = any(
        not rule.match or any(not match.names_routes for match in rule.match)
        for rule in policy.meters
    )
    priced = [
        # The policy searches a path for its patterns; Envoy's must match the whole path.
        EnvoyRoute(
            name=f"priced-{number}",
            regex=f".*(?:{pattern}).*",
            upstream=UPSTREAM,
            priced=True,
            protocol=guess_protocol(pattern),
        )
        for number, pattern in enumerate(patterns, 1)
    ]
    rest = EnvoyRoute(name="other", prefix="/", upstream=UPSTREAM, priced=everything)
    return (*priced, rest)


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
