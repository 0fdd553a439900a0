"""What of a batch goes where: each command with its slot, and how a node is to hear it."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis.crc import key_slot

from sidecar.outbound.redis.cluster_url import Node
from sidecar.outbound.redis.keys import PUSH_CHANNEL
from sidecar.outbound.redis.server import Batch, Command
from sidecar.outbound.redis.slot_map import slot_of

PUSH_SLOT = key_slot(PUSH_CHANNEL.encode())
"""Where gateways listen, and where commands go that could go anywhere."""


@dataclass(slots=True)
class Ask:
    """One command on its way; `node` says where an ASK sent it, for this once."""

    position: int
    command: Command
    slot: int
    keyless: bool
    node: Node | None = None


def plan(batch: Batch) -> list[Ask]:
    """Each command with its slot; without a key, the slot of the one before it or the first."""
    slots = [slot_of(command) for command in batch]
    last = next((slot for slot in slots if slot is not None), PUSH_SLOT)
    asks = []
    for position, (command, slot) in enumerate(zip(batch, slots, strict=True)):
        last = last if slot is None else slot
        asks.append(Ask(position, command, last, slot is None))
    return asks


def spoken(asks: Sequence[Ask]) -> list[Command]:
    """The commands as a node hears them: one that an ASK sent there says so first."""
    commands: list[Command] = []
    for ask in asks:
        if ask.node is not None:
            commands.append(("ASKING",))
        commands.append(ask.command)
    return commands
