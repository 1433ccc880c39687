"""Looking at what the services show and at what their stores hold, and holding both to the invariants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memory_service.values import KINDS, Memory, Scope, SessionKey, Turn
from tests.properties import invariants as must
from tests.properties.comparing import without_the_sitting
from tests.properties.lanes import Lane
from tests.properties.model import KEYS

if TYPE_CHECKING:
    from tests.properties.driven import DrivenMachine


def look_at_session(machine: DrivenMachine, key: SessionKey) -> None:
    told = machine.world.told[key]
    sent = {"user_id": key.scope.user_id, "session_id": key.session_id}
    contexts = machine.in_all(lambda lane: lane.ask("POST", "/memory/context", key.scope.tenant_id, json=sent))
    raced = key in machine.raced
    machine.judged(key.scope, {lane: without_the_sitting(one) if raced else one for lane, one in contexts.items()})
    turns = machine.in_all(lambda lane: lane.store.turns(key))
    for lane, context in contexts.items():
        head = lane.head(key)
        must.invariant_1_durable(told, turns[lane])
        must.invariant_2_once(told, turns[lane])
        must.invariant_4_dense_and_ordered(told, turns[lane])
        must.invariant_5_read_your_writes(told, head, turns[lane], context)
        must.invariant_6_byte_fidelity(told, turns[lane])
        must.invariant_10_coverage(told, head, context)


def look_at_everything(machine: DrivenMachine) -> None:
    for key in machine.world.told:
        look_at_session(machine, key)
        path = f"/sessions/{key.session_id}/reflection?user_id={key.scope.user_id}"
        machine.get(key.scope, path)
    for scope in dict.fromkeys(key.scope for key in KEYS):
        look_at_user(machine, scope)
    for lane in machine.lanes:
        must.invariant_7_isolation_of_prompts([*lane.reader.prompts, *lane.embedder.texts])
        must.invariant_15_bounded_and_honest(lane, lane.service.stats())


def look_at_user(machine: DrivenMachine, scope: Scope) -> None:
    machine.ask(scope, "/insights")
    machine.ask(scope, "/summaries", limit=1000)
    machine.ask(scope, "/memory/retrieve", query="canary", top_k=100, kinds=list(KINDS))
    given_up = {lane: machine.run(lane.ask("GET", "/reflections", scope.tenant_id)) for lane in machine.lanes}
    for lane, answer in given_up.items():
        must.invariant_7_isolation_of_tenants(scope.tenant_id, lane, answer)
    memories = machine.in_all(lambda lane: lane.store.memories(scope, KINDS, superseded=True))
    sessions = {key.session_id: key for key in machine.world.told if key.scope == scope}
    turns = {
        name: machine.in_all(lambda lane, key=key: lane.store.turns(key))  # type: ignore[misc]
        for name, key in sessions.items()
    }
    for lane in machine.lanes:
        of_lane = {name: found[lane] for name, found in turns.items()}
        must.invariant_11_provenance(scope, memories[lane], of_lane)
        look_at_index(lane, scope, of_lane, memories[lane])
    for name, key in sessions.items():
        sittings = machine.in_all(lambda lane, key=key: lane.store.sittings(key))  # type: ignore[misc]
        for lane in machine.lanes:
            must.invariant_12_effect_once(sittings[lane], memories[lane], name)


def look_at_index(lane: Lane, scope: Scope, turns: dict[str, list[Turn]], memories: list[Memory]) -> None:
    every = [turn for of_session in turns.values() for turn in of_session]
    must.invariant_14_index_truth(lane, lane.corpus(scope), every, memories)


def look_at_the_end(machine: DrivenMachine) -> None:
    """What must hold once the model is well and nothing is left to be waited for."""
    look_at_everything(machine)
    for key, told in machine.world.told.items():
        sittings = machine.in_all(lambda lane, key=key: lane.store.sittings(key))  # type: ignore[misc]
        for lane in machine.lanes:
            must.invariant_12_liveness(told, sittings[lane])
            must.invariant_10_coverage_at_rest(lane.head(key))
    for scope in dict.fromkeys(key.scope for key in machine.world.told):
        for lane in machine.lanes:
            machine.run(look_at_vectors(lane, scope))


async def look_at_vectors(lane: Lane, scope: Scope) -> None:
    due = await lane.store.due_vectors(lane.embedder.space, 1000)
    entries = await lane.store.entries(scope, None, lane.embedder.space, 10_000)
    must.invariant_14_every_item_has_a_vector(lane, lane.corpus(scope), due, entries)
