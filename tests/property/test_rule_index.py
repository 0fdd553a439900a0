"""The index finds every rule that trying each would find, in the same order."""

from fixtures.policy_parts import request, view_of
from fixtures.random_policies import callers, policies
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.customers import CustomerFacts
from sidecar.domain.matching import fits_any
from sidecar.domain.policy import Policy
from sidecar.domain.rules import Members, Mode, Rule, Unidentified


def is_for(policy: Policy, rule: Rule, caller: CustomerFacts) -> bool:
    """The words of the reference, one by one."""
    by_user = rule.users is not None or rule.user_members is not None
    if by_user:
        team_is_enough = (
            rule.user_members is None
            and rule.users.teams
            and not (rule.users.ids or rule.users.exclude)
        )
        known = bool(caller.user_id or (team_is_enough and caller.team_id))
    else:
        known = rule.counter is not None or bool(caller.customer_id)
    if rule.counter is not None:
        known = known and bool(rule.counter.level.name_in(caller))
    if not known:
        return rule.unidentified is not Unidentified.SKIP
    if rule.unidentified is Unidentified.ONLY:
        return False
    for wanted, lists, who in (
        (rule.customer_members, policy.customer_members, caller.customer_id),
        (rule.user_members, policy.user_members, caller.user_id),
    ):
        listed = rule.name in {one.rule for one in lists.get(who, ())}
        if wanted is not None and listed is not (wanted is Members.LISTED):
            return False
    return rule.customers.accepts(caller) and (rule.users is None or rule.users.accepts(caller))


@given(
    policy=policies(),
    caller=callers,
    path=st.sampled_from(("/a", "/b/c", "/abcd", "/z")),
    method=st.sampled_from(("GET", "POST")),
)
def test_the_index_finds_what_trying_each_rule_finds(policy, caller, path, method) -> None:
    view = view_of(request(path, method), policy)
    expected = [
        rule.name
        for rule in policy.rules
        if rule.mode is not Mode.DRAFT
        and is_for(policy, rule, caller)
        and fits_any(rule.match, view)
    ]
    found = [rule.name for rule, _ in policy.rules_for(view, caller)]
    assert sorted(found) == sorted(expected)
    unlisted = {
        r.name for r in policy.rules if Members.LISTED not in (r.customer_members, r.user_members)
    }
    assert [name for name in found if name in unlisted] == [n for n in expected if n in unlisted]
