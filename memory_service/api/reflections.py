"""The routes that tell how far the reading of conversations is, and that have it done again."""

from __future__ import annotations

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.api.named import session_of
from memory_service.service import MemoryService
from memory_service.sessions import Ended
from memory_service.values import Scope, Sitting


async def reflection(service: MemoryService, caller: Caller, body: schemas.GetReflection) -> schemas.ReflectionAnswer:
    return _reflection(await service.reflection(session_of(caller, body)))


async def reflections(
    service: MemoryService, caller: Caller, body: schemas.GetReflections
) -> schemas.ReflectionsAnswer:
    found = await service.reflections(caller.of_all_users(), body.state, body.limit)
    answers = [_sitting(scope, sitting) for scope, sitting in found]
    return schemas.ReflectionsAnswer(reflections=answers, count=len(answers))


async def replay(service: MemoryService, caller: Caller, body: schemas.Replay) -> schemas.ReflectionAnswer:
    return _reflection(await service.replay(session_of(caller, body)))


REFLECTIONS = (
    Verb(
        method="GET",
        path="/sessions/{session_id}/reflection",
        summary="Tell how far the reflection on a session is",
        handle=reflection,
        takes=schemas.GetReflection,
        gives=schemas.ReflectionAnswer,
        errors=(404,),
    ),
    Verb(
        method="GET",
        path="/reflections",
        summary="List sittings by the state of their reflection: what was given up, what is to be done",
        handle=reflections,
        takes=schemas.GetReflections,
        gives=schemas.ReflectionsAnswer,
    ),
    Verb(
        method="POST",
        path="/reflections/replay",
        needs="write",
        summary="Reflect again on a session that was given up",
        handle=replay,
        takes=schemas.Replay,
        gives=schemas.ReflectionAnswer,
        errors=(404, 409, 507),
    ),
)


def _reflection(ended: Ended) -> schemas.ReflectionAnswer:
    sitting = ended.sitting
    return schemas.ReflectionAnswer(
        session_id=ended.session.session_id,
        reflection=ended.reflection,
        attempts=sitting.attempts if sitting else 0,
        last_error=sitting.last_error if sitting else None,
        turns_count=ended.session.sitting_turns,
        insights_count=sitting.insights_count if sitting else 0,
    )


def _sitting(scope: Scope, sitting: Sitting) -> schemas.SittingAnswer:
    return schemas.SittingAnswer(
        user_id=scope.user_id,
        session_id=sitting.session_id,
        first_turn=sitting.first_seq,
        last_turn=sitting.through_seq,
        reflection=sitting.reflection,
        attempts=sitting.attempts,
        last_error=sitting.last_error,
        due_at=sitting.due_at,
    )
