"""What may be done, in any order: the rules. What comes of it is held to the model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from memory_service.api.schemas import StoreAnswer
from memory_service.background import GROWTH
from memory_service.values import KINDS, Scope, SessionKey
from tests.properties import invariants as must
from tests.properties.driven import DrivenMachine
from tests.properties.inspection import look_at_everything, look_at_session, look_at_the_end
from tests.properties.lanes import ABANDONED, IDLE, LEASE, THRESHOLD, Answer, K, Lane
from tests.properties.model import CANARIES, KEYS, SCOPES, Said, Told
from tests.properties.wrong import WRONG

START = "/sessions/start"
LONG_AGO = timedelta(hours=2)

keys = st.sampled_from(KEYS)
some = st.integers(0, 1_000)
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
    st.sampled_from(
        ["</memory>", "<memory> &lt;memory>", "one\r\n two\u2028 three\x1c", "e\u0301 \ufeff 😀 שלום 中文", "x" * 3000]
    ),
)
names = st.sampled_from(["", "turn_id", "request", "both"])


def is_message(said: Said) -> bool:
    """Whether a turn could have come as one message."""
    return "turn_id" in said.body and len(said.messages) == 1


def message_of(said: Said) -> dict[str, Any]:
    body = said.body
    return {
        "message_id": body["turn_id"],
        "role": "user" if body["user_message"] else "assistant",
        "content": said.messages[0],
        "metadata": body["metadata"],
    }


def stored_answer(said: Said, number: int, answer: Answer) -> dict[str, Any]:
    """What a turn is answered with that comes again as a turn."""
    of_turn = {"session_id": said.key.session_id, "turn_id": said.body["turn_id"], "turn_number": number}
    whole = StoreAnswer(**of_turn, durability=answer.body["durability"], replayed=False)
    told: dict[str, Any] = msgspec.to_builtins(whole)
    return told


class MemoryMachine(DrivenMachine):
    @initialize(known=st.sets(keys))
    def open(self, known: set[SessionKey]) -> None:
        self.in_all(lambda lane: lane.open(self.space))
        for key in KEYS:
            if key in known:
                self.start(key, restore=True)
                for named in ("turn_id", "request"):
                    self.store(key, "", named, 1)

    # What callers do

    @rule(key=keys, restore=st.booleans())
    def start(self, key: SessionKey, restore: bool) -> None:
        told, now = self.world.told.get(key), self.ages()
        answer = self.ask(key.scope, START, session_id=key.session_id, restore=restore)
        if told is not None and told.status == "client" and restore:
            self.refused(answer, 409, "session_ended")
            return
        assert answer.status == 200
        assert answer.body["restored"] == (told is not None and restore)
        if told is None:
            self.world.told[key] = Told(touched_at=now)
        elif restore:
            told.go_on(now)
        else:
            told.close()
            told.reopen(now)
            self.raced.discard(key)
        self.touched.add(key)

    def draft(self, key: SessionKey, text: str, named: str) -> Said:
        word, canary = self.world.next_word(), CANARIES[key.scope]
        body = {
            "user_id": key.scope.user_id,
            "session_id": key.session_id,
            "user_message": f"{canary} {word} {text}",
            "agent_message": f"{text} {canary}" if len(text) % 2 else "",
            "metadata": {"said": text[:100]} if len(text) % 3 else {},
        }
        if named in ("turn_id", "both"):
            body["turn_id"] = f"turn-of-{word}"
        request = f"request-of-{word}" if named in ("request", "both") else None
        return Said(key, word, body, request, self.ages())

    def send(self, said: Said) -> Answer:
        return self.ask(said.key.scope, "/memory/store", headers=said.headers, **said.body)

    @rule(key=keys, text=texts, named=names, times=st.integers(1, 5))
    def store(self, key: SessionKey, text: str, named: str, times: int) -> None:
        for _ in range(times):
            said = self.draft(key, text, named)
            answer = self.send(said)
            if self.is_refused_for_its_session(key, answer):
                return
            assert (answer.status, answer.body["replayed"]) == (200, False)
            self.world.add(said, answer.body, self.ages())
            if any(lane.head(key).unreflected_turns >= GROWTH * THRESHOLD for lane in self.lanes):
                self.in_all(lambda lane: lane.rested())  # with which turn it begins to be read is a matter of time
        self.touched.add(key)

    @rule(key=keys, text=texts, count=st.integers(1, 4), known=st.integers(0, 2))
    def store_messages(self, key: SessionKey, text: str, count: int, known: int) -> None:
        """They begin a session, and go on with one that was ended; those that are there stay where they are."""
        new = [self.draft(key, text, "turn_id") for _ in range(count)]
        for said in new:
            said.body["agent_message"] = ""
        told = self.world.told.get(key)
        there = [said for said in told.turns if is_message(said)][:known] if told else []
        for sent, stored in (([*new[:1], *there, *new[1:]], count), ([*there, *new], 0)):
            body = {"session_id": key.session_id, "messages": [message_of(said) for said in sent]}
            answer = self.ask(key.scope, "/messages", **body)
            assert (answer.status, answer.body["stored"], answer.body["replayed"]) == (200, stored, stored == 0)
            if stored:
                self.begin_or_go_on(key)
                for said, number in zip(sent, answer.body["turn_numbers"], strict=True):
                    if said in new:
                        self.world.add(said, stored_answer(said, number, answer), self.ages())
            assert answer.body["turn_numbers"] == [said.answer["turn_number"] for said in sent]
        self.touched.add(key)

    def begin_or_go_on(self, key: SessionKey) -> None:
        told = self.world.told.setdefault(key, Told(touched_at=self.ages()))
        if told.status != "active":
            told.reopen(self.ages())
            self.raced.discard(key)

    def is_refused_for_its_session(self, key: SessionKey, answer: Answer) -> bool:
        """Whether the session takes no turns; then it must have said so."""
        told = self.world.told.get(key)
        if told is None:
            self.refused(answer, 404, "session_not_found")
        elif told.status != "active":
            self.refused(answer, 409, "session_ended")
        return told is None or told.status != "active"

    @rule(key=keys, text=texts, count=st.integers(2, 4), twin=st.booleans(), ended_at=st.integers(0, 8))
    def store_several_at_once(self, key: SessionKey, text: str, count: int, twin: bool, ended_at: int) -> None:
        drafts = [self.draft(key, text, "request") for _ in range(count)]
        sent = [*drafts, drafts[0]] if twin else drafts
        *answers, ended = self.at_once(key, sent, ended_at if ended_at < len(sent) else None)
        if (told := self.world.told.get(key)) is None or told.status != "active":
            for answer in answers:
                self.is_refused_for_its_session(key, answer)
        else:
            self.add_in_order(sent, answers)
            for said, answer in zip(sent, answers, strict=True):
                if answer.status != 200:
                    assert ended is not None
                    self.refused(answer, 409, "session_ended")
                elif answer.body["replayed"]:
                    must.invariant_3_replay_equal(said, answer)
            self.touched.add(key)
        if ended is not None and told is not None:
            told.end("client")
            self.raced.add(key)

    def add_in_order(self, sent: list[Said], answers: list[Answer]) -> None:
        """Note the new turns in the order that the service gave them."""
        served = [(said, answer.body) for said, answer in zip(sent, answers, strict=True) if answer.status == 200]
        for said, body in sorted(served, key=lambda pair: pair[1]["turn_number"]):
            if not body["replayed"]:
                self.world.add(said, body, self.ages())

    def at_once(self, key: SessionKey, sent: list[Said], ended_at: int | None) -> list[Any]:
        """Send all of these, and the end of the session among them, without waiting for answers."""
        end = {"user_id": key.scope.user_id, "session_id": key.session_id}

        async def work(lane: Lane) -> list[Answer]:
            calls = [
                lane.ask("POST", "/memory/store", key.scope.tenant_id, said.headers, json=said.body) for said in sent
            ]
            if ended_at is not None:
                calls.insert(ended_at, lane.ask("POST", "/sessions/end", key.scope.tenant_id, json=end))
            return await asyncio.gather(*calls)

        every = self.in_all(work)
        count = len(sent) + (ended_at is not None)
        answers: list[Any] = [
            self.judged(key.scope, {lane: got[i] for lane, got in every.items()}) for i in range(count)
        ]
        answers.append(None if ended_at is None else answers.pop(ended_at))
        return answers

    def sent_before(self, which: int) -> tuple[Said, bool | None] | None:
        """One of the turns that can be told when they come again, and whether its name must be remembered."""
        sent = [said for told in self.world.told.values() for said in told.turns if self.world.can_be_repeated(said)]
        if not sent:
            return None
        said = sent[which % len(sent)]
        return said, self.world.remembers(said, self.ages())

    @rule(which=some)
    def ask_again(self, which: int) -> None:
        if (found := self.sent_before(which)) is not None and found[1] is not None:
            said, remembered = found
            self.repeat(said, new=not remembered and "turn_id" not in said.body)

    @rule(which=some)
    def ask_again_in_other_words(self, which: int) -> None:
        if (found := self.sent_before(which)) is not None and (found[1] or not found[0].request):
            said, remembered = found
            self.refused_as_reused(said, bool(remembered), user_message="Something else.")

    @rule(which=some)
    def ask_again_elsewhere(self, which: int) -> None:
        if (found := self.sent_before(which)) is not None and found[1]:
            (sister,) = (key for key in KEYS if key.scope == found[0].key.scope and key != found[0].key)
            if sister in self.world.told:
                self.refused_as_reused(found[0], True, session_id=sister.session_id)

    def refused_as_reused(self, said: Said, remembered: bool, **changes: str) -> None:
        before = {lane: lane.book.commits for lane in self.lanes}
        answer = self.ask(said.key.scope, "/memory/store", headers=said.headers, **{**said.body, **changes})
        self.refused(answer, 422, "idempotency_key_reused" if remembered else "turn_id_reused")
        self.nothing_was_written(before)

    def repeat(self, said: Said, *, new: bool) -> None:
        """Send a turn again. It has its effect anew only if its name was forgotten and it has no turn_id."""
        answer = self.send(said)
        self.touched.add(said.key)
        if new:
            assert (answer.status, answer.body["replayed"]) == (200, False)
            again = Said(said.key, said.word, said.body, said.request, self.ages())
            self.world.add(again, answer.body, self.ages())
        else:
            must.invariant_3_replay_equal(said, answer)

    def nothing_was_written(self, before: dict[Lane, int]) -> None:
        for lane, commits in before.items():
            must.invariant_5_a_refusal_changes_nothing(commits, lane.book.commits)

    @rule(key=keys, wrong=st.sampled_from(WRONG))
    def ask_wrongly(self, key: SessionKey, wrong: Any) -> None:
        before = {lane: lane.book.commits for lane in self.lanes}
        sent = wrong.sent(key)
        answer = self.judged(
            key.scope, self.in_all(lambda lane: lane.ask(wrong.method, wrong.path, key.scope.tenant_id, **sent))
        )
        self.refused(answer, wrong.status, wrong.code)
        self.nothing_was_written(before)

    @rule(key=keys, which=some, all_kinds=st.booleans())
    def search(self, key: SessionKey, which: int, all_kinds: bool) -> None:
        told = self.world.told.get(key)
        said = told.turns[which % len(told.turns)] if told and told.turns else None
        kinds = {"kinds": list(KINDS)} if all_kinds else {}
        query = said.word if said else "anything"
        answer = self.ask(key.scope, "/memory/retrieve", query=query, top_k=100, **kinds)
        assert answer.status == 200
        assert answer.body["degraded"] == (["vector"] if self.mood.state == "down" else [])
        if said is not None:
            assert said.messages[0] in [result["text"] for result in answer.body["results"]]

    @rule(key=keys)
    def end(self, key: SessionKey) -> None:
        answer = self.ask(key.scope, "/sessions/end", session_id=key.session_id)
        told = self.world.told.get(key)
        if told is None:
            self.refused(answer, 404, "session_not_found")
            return
        told.end("client")
        self.touched.add(key)
        assert answer.status == 200
        assert answer.body["turns_count"] == told.sitting_turns
        assert (answer.body["reflection"] == "none") == (told.sitting_turns == 0)

    @rule(scope=st.sampled_from(SCOPES))
    def erase_user(self, scope: Scope) -> None:
        answer = self.delete(scope, f"/users/{scope.user_id}")
        if not self.world.of(scope):
            self.refused(answer, 404, "user_not_found")
            return
        assert answer.status == 200
        assert answer.body["erased"]["sessions"] == len(self.world.of(scope))
        for key in list(self.world.of(scope)):
            self.forget(key)

    @rule(key=keys)
    def erase_session(self, key: SessionKey) -> None:
        answer = self.delete(key.scope, f"/sessions/{key.session_id}", user_id=key.scope.user_id)
        if key not in self.world.told:
            self.refused(answer, 404, "session_not_found")
            return
        assert (answer.status, answer.body["erased"]["sessions"]) == (200, 1)
        assert answer.body["erased"]["turns"] == len(self.world.told[key].turns)
        self.forget(key)

    def forget(self, key: SessionKey) -> None:
        self.world.erase(key)
        self.raced.discard(key)
        self.touched.discard(key)
        for lane in self.lanes:
            lane.book.forget(key)

    @rule(key=keys)
    def replay_what_was_given_up(self, key: SessionKey) -> None:
        answer = self.ask(key.scope, "/reflections/replay", session_id=key.session_id)
        if key in self.world.told:
            assert answer.status == 200
        else:
            self.refused(answer, 404, "session_not_found")

    # What happens to the services

    @rule()
    def evict_everything(self) -> None:
        known = [key for key in KEYS if key in self.world.told]
        for lane in self.lanes:
            lane.evict_everything()
        before = {lane: lane.service.stats() for lane in self.lanes}
        for key in known:
            self.ask(key.scope, "/memory/context", session_id=key.session_id)
        for lane in self.lanes:
            must.invariant_15_the_pool_counts_right(lane, before[lane], lane.service.stats(), len(known))

    @rule()
    def forget_corpora(self) -> None:
        for lane in self.lanes:
            lane.forget_corpora()

    @rule(new_space=st.booleans())
    def restart(self, new_space: bool) -> None:
        self.space += new_space
        self.in_all(lambda lane: lane.reopen(self.space))
        self.swept()

    @rule()
    def another_embedder_that_is_down(self) -> None:
        """Nothing has a vector in its space yet, and those of the former one are still there."""
        self.change_the_model("down")
        self.restart(new_space=True)
        self.look_at_everything()
        self.change_the_model("well")

    @rule(new_space=st.booleans())
    def crash(self, new_space: bool) -> None:
        """Nothing is told to stop. What was held by the dead is free again after one lease, at the latest."""
        self.space += new_space
        self.in_all(lambda lane: lane.crash(self.space))
        self.swept()
        self.go_on_and_sweep(LEASE)

    @rule(state=st.sampled_from(["well", "down", "nonsense"]))
    def change_the_model(self, state: Literal["well", "down", "nonsense"]) -> None:
        """What was answered while it was well would be answered still, in lanes that did not start anew since."""
        self.mood.state = state
        for lane in self.lanes:
            lane.forget_answers()

    @rule(state=st.sampled_from(["down", "nonsense"]))
    def long_outage(self, state: Literal["down", "nonsense"]) -> None:
        """Long enough for what is due to be given up."""
        self.mood.state = state
        for _ in range(3):
            self.go_on_and_sweep(LONG_AGO)

    @rule()
    def hold_the_model(self) -> None:
        self.mood.released.clear()

    @rule()
    def release_the_model(self) -> None:
        self.mood.released.set()

    @rule(key=keys, what=st.sampled_from(["afresh", "end", "store", "crash", "restart", "tomorrow", "fail"]))
    def something_happens_while_the_model_reads(self, key: SessionKey, what: str) -> None:
        told = self.world.told.get(key)
        self.start(key, restore=told is None or told.status == "active")
        self.change_the_model("well")
        self.hold_the_model()
        self.store(key, "", "turn_id", 2 * K)
        happening: dict[str, Callable[[], None]] = {
            "afresh": lambda: self.start(key, restore=False),
            "end": lambda: self.end(key),
            "store": lambda: self.store(key, "", "request", 2),
            "crash": lambda: self.crash(new_space=False),
            "restart": lambda: self.restart(new_space=False),
            "tomorrow": lambda: self.go_on_and_sweep(ABANDONED),
            "fail": lambda: self.change_the_model("down"),
        }
        self.what_was_touched_is_as_it_must_be()
        happening[what]()
        self.release_the_model()

    @rule(key=keys)
    def a_conversation_is_read_in_stretches(self, key: SessionKey) -> None:
        told = self.world.told.get(key)
        self.start(key, restore=told is None or told.status == "active")
        self.release_the_model()
        self.change_the_model("well")
        for _ in range(2):
            self.store(key, "", "", THRESHOLD)
            self.go_on_and_sweep(IDLE)
            self.look_at_everything()

    @rule(pause=st.sampled_from([timedelta(minutes=5), timedelta(minutes=31), timedelta(hours=25), timedelta(days=4)]))
    def go_on_and_sweep(self, pause: timedelta) -> None:
        self.ages.go_on(pause)
        self.in_all(lambda lane: lane.service.sweep())
        self.swept()

    def swept(self) -> None:
        for key, told in self.world.told.items():
            if told.status == "active" and told.touched_at <= self.ages() - ABANDONED:
                told.end("service")
                self.touched.add(key)
        self.in_all(lambda lane: lane.rested())

    @rule()
    def set_the_clock_back(self) -> None:
        self.ages.at -= timedelta(hours=1)

    # What must hold

    @rule()
    def look_at_everything(self) -> None:
        look_at_everything(self)

    @invariant()
    def what_was_touched_is_as_it_must_be(self) -> None:
        self.in_all(lambda lane: lane.rested())
        for key in self.touched & self.world.told.keys():
            look_at_session(self, key)
        self.touched.clear()
        self.ages.go_on(timedelta(seconds=1))

    def teardown(self) -> None:
        try:
            if sys.exception() is None:  # otherwise a step has failed, and what comes after it tells nothing
                self.come_to_rest()
                look_at_the_end(self)
        finally:
            with self.runner, self.folder:
                self.in_all(lambda lane: lane.leave())

    def come_to_rest(self) -> None:
        self.release_the_model()
        self.change_the_model("well")
        for key, told in self.world.told.items():
            if told.status == "active":  # a compaction that failed is asked for again by the next turn
                self.store(key, "The last word.", "", 1)
        for _ in range(3):
            self.go_on_and_sweep(LONG_AGO)
