"""A pipeline of one's own on AWS: passages from a knowledge base of Bedrock, and a model that answers with them.

`KNOWLEDGE_BASE_ID` names the knowledge base, `KNOWLEDGE_BASE_MODEL` the model that writes the answers.
knowledge_base_policy.json beside this file is what the worker has to be allowed. docs/aws-deploy.md deploys it.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from answerback.client import ErrorCode
from answerback.models import build_model
from answerback.ports import Model, ModelError, Piece, Prompt

PASSAGES = 5
PASSAGE_TOKENS = 400
"""What a passage has at most, as the knowledge base was made."""

RULES = "Answer from these passages. Name the number of each that you use, as [1]. If the answer is not there, say so."


class KnowledgeBase:
    """Retrieves passages, then lets a model answer with them."""

    name = "knowledge-base"

    def __init__(self, client: Any, knowledge_base_id: str, model: Model) -> None:
        self._client = client
        self._id = knowledge_base_id
        self._model = model
        self.context_tokens = model.context_tokens - PASSAGES * PASSAGE_TOKENS
        self.concurrency = model.concurrency

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The model's pieces. Only the question itself is looked up, not what was said before it."""
        # boto3 blocks, and other answers are made on the event loop meanwhile.
        passages = await asyncio.to_thread(self._retrieve, prompt.messages[-1].text)
        numbered = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(passages, start=1))
        system = "\n\n".join(filter(None, (prompt.system, RULES, numbered)))
        async with aclosing(self._model.stream(replace(prompt, system=system))) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Close what was opened."""
        self._client.close()
        await self._model.close()

    def _retrieve(self, question: str) -> list[str]:
        try:
            found = self._client.retrieve(
                knowledgeBaseId=self._id,
                retrievalQuery={"text": question[:1000]},  # what a knowledge base takes
                retrievalConfiguration={"vectorSearchConfiguration": {"numberOfResults": PASSAGES}},
            )
        except (ClientError, BotoCoreError) as exc:
            raise ModelError(
                ErrorCode.MODEL_UNAVAILABLE, f"the knowledge base {self._id}: {exc}", transient=True
            ) from exc
        return [one["content"]["text"] for one in found["retrievalResults"]]


def make() -> KnowledgeBase:
    """What `python:knowledge_base:make` calls, once, when the worker starts."""
    model = build_model(os.environ.get("KNOWLEDGE_BASE_MODEL", "bedrock:amazon.nova-lite-v1:0"))
    client = boto3.client("bedrock-agent-runtime")
    return KnowledgeBase(client, os.environ["KNOWLEDGE_BASE_ID"], model)
