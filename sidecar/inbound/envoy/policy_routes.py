"""Which of Envoy's routes send their body to the check, from the policy's own patterns."""

from sidecar.domain.policy import Policy
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
        for number in sorted(rule.match.routes)
    )
    everything = any(not rule.match.names_routes for rule in policy.meters)
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


def guess_protocol(pattern: str) -> LlmProtocol | None:
    """The shape of answers that a path's name promises; None lets Envoy guess from each."""
    for part, protocol in PROTOCOL_BY_PATH:
        if part in pattern:
            return protocol
    return None
