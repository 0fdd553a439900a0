"""What commands about rules share: a loaded policy, its tests' results, its explainer."""

from pathlib import Path

from sidecar.domain.policy import Policy
from sidecar.inbound.denials import DENIALS, word_denial
from sidecar.inbound.extraction.request_body import read_request_facts
from sidecar.outbound.policy_files.loader import LoadedPolicy, load_policy
from sidecar.services.explaining import Explainer
from sidecar.services.rule_test_cases import RuleTestResult
from sidecar.services.rule_tests import run_rule_tests
from sidecar.settings import Settings


def load(settings: Settings, directory: Path | None = None) -> LoadedPolicy:
    """
    The policy of a folder, or of the settings.

    Raises:
        ConfigError: With every mistake of its files.
    """
    return load_policy(directory or settings.policy_dir)


def run_tests(loaded: LoadedPolicy) -> list[RuleTestResult]:
    """The results of the tests beside its rules, worded as the edges word denials."""
    statuses = {reason: words.status for reason, words in DENIALS.items()}
    return run_rule_tests(loaded.policy, loaded.tests, statuses=statuses)


def explainer_of(policy: Policy) -> Explainer:
    """Explains under this policy, in the words of the edges."""
    return Explainer(policy, read_facts=read_request_facts, word=word_denial)
