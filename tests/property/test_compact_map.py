"""The packed map against a plain one: nothing else than what was put, for as long, and bounded."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.outbound.redis import compact_map
from sidecar.outbound.redis.compact_map import CompactMap

SECONDS = 30.0
KEYS = st.one_of(
    st.integers(0, 60).map(lambda number: f"cus_{number}"),
    st.text(st.characters(), max_size=4),
    st.just("\udc80"),
)
VALUES = st.one_of(st.binary(max_size=40), st.just(b"x" * 70_000))


class AgainstAPlainMap(RuleBasedStateMachine):
    """What is there may have had to go; what is answered is what was put last, and in time."""

    @initialize(entries_max=st.sampled_from([1, 2, 3, 20, 1_000]))
    def begin(self, entries_max: int) -> None:
        self.now = 100.0
        self.entries_max = entries_max
        self.map = CompactMap(entries_max, SECONDS, lambda: self.now)
        self.plain: dict[str, tuple[bytes, float]] = {}
        self.crowded = False

    @rule(key=KEYS, value=VALUES, seconds=st.sampled_from([float("inf"), 45.0, 5.0, 0.0, -1.0]))
    def put(self, key: str, value: bytes, seconds: float) -> None:
        self.map.put(key, value, seconds)
        self.plain[key] = value, self.now + min(SECONDS, seconds)
        self.crowded |= len(self.plain) > self.entries_max
        # The newest never had to go for itself.
        assert self.map.get(key) == (value if seconds > 0 else None)

    @rule(numbers=st.integers(1, 200))
    def put_many(self, numbers: int) -> None:
        for number in range(numbers):
            self.put(f"many_{number}", b"%d" % number, float("inf"))

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        value, ends = self.plain.get(key, (None, 0.0))
        wanted = value if ends > self.now else None
        if wanted is None or not self.crowded:
            assert self.map.get(key) == wanted
        else:
            assert self.map.get(key) in {wanted, None}

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.map.drop(key)
        self.plain.pop(key, None)
        assert self.map.get(key) is None

    @rule()
    def clear(self) -> None:
        self.map.clear()
        self.plain.clear()
        self.crowded = False

    @rule(seconds=st.sampled_from([0.5, 5.0, 29.5, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def is_bounded_and_counted(self) -> None:
        held = sum(1 for _ in entries_of(self.map))
        assert len(self.map) == held <= self.entries_max
        if not self.crowded:
            kept = {key for key, (_, ends) in self.plain.items() if ends > self.now}
            assert all(self.map.get(key) is not None for key in kept)


TestAgainstAPlainMap = AgainstAPlainMap.TestCase


def entries_of(packed: CompactMap):
    """Where each entry is, on the page that its key names."""
    for number, page in enumerate(packed._pages):
        at = 0
        while at < len(page):
            assert packed._page_of(bytes(page[at : at + 16])) == number
            yield number, at
            at = compact_map._end_of(page, at)
        assert at == len(page)


@given(st.integers(100, 600), st.integers(0, 30))
def test_who_comes_again_and_again_stays_while_others_pass_by(passers: int, regulars: int):
    packed = CompactMap(200, SECONDS, lambda: 0.0)
    for number in range(regulars):
        packed.put(f"regular_{number}", b"")
    for number in range(passers):
        packed.put(f"passer_{number}", b"")
        for regular in range(regulars):
            assert packed.get(f"regular_{regular}") is not None


def test_where_all_were_used_one_goes_all_the_same_and_soon(monkeypatch):
    packed = CompactMap(1_000, SECONDS, lambda: 0.0)
    for number in range(1_000):
        packed.put(str(number), b"")
    looked_at = []
    first_unused = compact_map._first_unused
    monkeypatch.setattr(
        compact_map,
        "_first_unused",
        lambda page, newest: looked_at.append(page) or first_unused(page, newest),
    )
    for number in range(1_000, 1_020):
        for other in range(number):
            packed.get(str(other))
        looked_at.clear()
        packed.put(str(number), b"")
        assert len(packed) == 1_000
        assert packed.get(str(number)) == b""
        assert len(looked_at) <= 4 or max(map(len, looked_at[4:])) == 0


def test_a_hundred_thousand_take_less_than_seven_mebibytes():
    packed = CompactMap(100_000, SECONDS, lambda: 0.0)
    for number in range(100_000):
        packed.put(f"cus_{number:07d}", b"x" * 22)
    sizes = [page.__sizeof__() for page in packed._pages]
    assert sum(sizes) < 7 * 2**20
    assert max(map(len, packed._pages)) < 3_000
