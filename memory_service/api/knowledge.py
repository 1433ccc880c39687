"""The routes of what all users of a tenant may know."""

from __future__ import annotations

from memory_service.api import schemas
from memory_service.api.auth import Caller
from memory_service.api.endpoint import Verb
from memory_service.errors import KnowledgeNotFound
from memory_service.limits import check_metadata
from memory_service.memories import known_of
from memory_service.service import MemoryService
from memory_service.telling import Asked, Document, Known


async def store_knowledge(
    service: MemoryService, caller: Caller, body: schemas.StoreKnowledge
) -> schemas.KnowledgeStoredAnswer:
    check_metadata("$.metadata", body.metadata)
    document = Document(
        doc_id=body.doc_id or "",
        content=body.content,
        category=body.category,
        title=body.title,
        metadata=body.metadata,
    )
    kept = await service.memories.put_document(caller.of_all_users(), document)
    return schemas.KnowledgeStoredAnswer(
        doc_id=kept.doc_id,
        id=kept.memory.memory_id,
        category=kept.memory.category or "",
        created_at=kept.memory.created_at,
        change=kept.change,
        durability=kept.durability,
    )


async def recall_knowledge(
    service: MemoryService, caller: Caller, body: schemas.RecallKnowledge
) -> schemas.KnowledgeAnswer:
    found = await service.recall_knowledge(caller.of_any_user(), body.query, body.top_k, body.category)
    return schemas.KnowledgeAnswer(
        query=body.query,
        results=[result_of(known_of(hit)) for hit in found.hits],
        count=len(found.hits),
        degraded=list(found.degraded),
    )


async def delete_knowledge(
    service: MemoryService, caller: Caller, body: schemas.DeleteKnowledge
) -> schemas.KnowledgeDeletedAnswer:
    if not await service.delete_document(caller.of_all_users(), body.doc_id):
        raise KnowledgeNotFound
    return schemas.KnowledgeDeletedAnswer(doc_id=body.doc_id)


def asked_of(body: schemas.GetContext | schemas.SessionStart) -> Asked | None:
    asked = Asked(pieces=body.include_knowledge, question=body.query, min_trust=body.min_trust)
    return asked if asked.pieces or asked.min_trust != "low" else None


def result_of(known: Known) -> schemas.KnowledgeResult:
    document = known.document
    return schemas.KnowledgeResult(
        id=known.memory_id,
        doc_id=document.doc_id,
        title=document.title,
        category=document.category,
        content=document.content,
        metadata=document.metadata,
        score=known.score,
        score_parts=schemas.ScoreParts(**known.parts),
        created_at=known.created_at,
    )


KNOWLEDGE = (
    Verb(
        method="POST",
        path="/knowledge",
        needs="write",
        summary="Store a piece of knowledge for all users, in place of an earlier one of its doc_id",
        handle=store_knowledge,
        takes=schemas.StoreKnowledge,
        gives=schemas.KnowledgeStoredAnswer,
        errors=(507,),
    ),
    Verb(
        method="POST",
        path="/knowledge/recall",
        cost=2,
        summary="Search the knowledge that all users share",
        handle=recall_knowledge,
        takes=schemas.RecallKnowledge,
        gives=schemas.KnowledgeAnswer,
    ),
    Verb(
        method="DELETE",
        path="/knowledge/{doc_id}",
        needs="erase",
        summary="Delete a piece of knowledge",
        handle=delete_knowledge,
        takes=schemas.DeleteKnowledge,
        gives=schemas.KnowledgeDeletedAnswer,
        errors=(404, 507),
        rest=True,
    ),
)
