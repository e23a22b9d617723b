"""Models behind a server you run yourself: Ollama, and any that speaks OpenAI's protocol.

LM Studio, mlx_lm.server and llama-server speak the latter; so do paid services, which then need a
price and OPENAI_API_KEY. Raises Busy, Broken, BackendError, ToolError; never a client's own errors.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coach_mlx import egress
from coach_mlx.calls import BUSY, Broken, Busy, Call, Outcome, Reply, Usage, retry_after
from coach_mlx.errors import BackendError, ConfigError, ToolError
from coach_mlx.keys import find_key, scrub, stored_key
from coach_mlx.prices import LOCAL_HOSTS

FINISHED: dict[str | None, Outcome] = {
    "stop": "ok",
    "length": "max_tokens",
    "content_filter": "refusal",
}


class OllamaBackend:
    def __init__(self, name: str, egress_log: Path, timeout_seconds: float, num_ctx: int) -> None:
        import ollama

        if name.endswith("cloud"):
            raise ConfigError(
                f"ollama/{name} does not run on this machine: Ollama sends its calls to a service. "
                "Choose a model that `ollama pull` brings here."
            )
        self._name, self._num_ctx = name, num_ctx
        # No proxy: what is meant for this machine must not be carried elsewhere.
        self._client = ollama.AsyncClient(
            timeout=timeout_seconds, event_hooks=egress.hooks(egress_log), trust_env=False
        )
        host = self._client._client.base_url.host
        if host not in (*LOCAL_HOSTS, "0.0.0.0", "::"):
            raise ConfigError(
                f"OLLAMA_HOST names another machine ({host}), and what is said would go there. To "
                "stay on this one: unset OLLAMA_HOST"
            )

    async def identity(self) -> str:
        """The digest of the weights, so that a model pulled anew gives new answers."""
        with self._translated():
            models = (await self._client.list()).models
        wanted = self._name if ":" in self._name else f"{self._name}:latest"
        for model in models:
            if model.model == wanted:
                return f"{model.digest}:{self._num_ctx}"
        raise ToolError(f"Ollama has no {self._name}. Fetch it with: ollama pull {self._name}")

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def send(self, call: Call, seed: int) -> Reply:
        options: dict[str, Any] = {
            "num_predict": call.max_tokens,
            "num_ctx": self._num_ctx,
            "seed": seed,
        }
        if call.temperature is not None:
            options["temperature"] = call.temperature
        with self._translated():
            answer = await self._client.chat(
                model=self._name,
                messages=call.chat(),
                format=call.schema.model_json_schema() if call.schema else None,
                options=options,
                think=False,
            )
        text = (answer.message.content or "").strip()
        outcome = FINISHED.get(answer.done_reason, "malformed")
        if outcome == "ok" and not text:
            outcome = "empty"
        usage = Usage(input=answer.prompt_eval_count or 0, output=answer.eval_count or 0)
        return Reply(text, outcome, str(answer.done_reason), self._name, usage)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx
        import ollama

        try:
            yield
        except ConnectionError:
            raise ToolError("Ollama does not answer. Start it with: ollama serve") from None
        except ollama.ResponseError as error:
            if error.status_code in BUSY:
                raise Busy(error.error) from None
            if error.status_code >= 500:
                raise Broken(error.error, False) from None
            raise BackendError(f"Ollama refuses the call: {error.error}") from None
        except (httpx.TransportError, ValueError) as error:
            raise Broken(f"Ollama: {type(error).__name__}", False) from None


class OpenAIBackend:
    def __init__(
        self, name: str, egress_log: Path, timeout_seconds: float, base_url: str | None, free: bool
    ) -> None:
        import openai

        self._name, self._base_url = name, base_url
        self._key = (stored_key("OPENAI_API_KEY") or "") if free else find_key("OPENAI_API_KEY")
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=base_url,
            max_retries=0,
            timeout=timeout_seconds,
            http_client=openai.DefaultAsyncHttpxClient(
                event_hooks=egress.hooks(egress_log), trust_env=not free
            ),
        )

    async def identity(self) -> str:
        return self._base_url or ""

    async def close(self) -> None:
        await self._client.close()

    async def send(self, call: Call, seed: int) -> Reply:
        body: dict[str, Any] = {
            "model": self._name,
            "messages": call.chat(),
            "max_tokens": call.max_tokens,
            "seed": seed,
        }
        if call.temperature is not None:
            body["temperature"] = call.temperature
        if call.schema:
            schema = {"name": call.schema.__name__, "schema": call.schema.model_json_schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        with self._translated():
            return self._reply(await self._client.chat.completions.create(**body))

    def _reply(self, answer: Any) -> Reply:
        from openai.types.chat import ChatCompletion

        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise Broken("the answer is not a chat completion", True)
        choice = answer.choices[0]
        text = (choice.message.content or "").strip()
        outcome = FINISHED.get(choice.finish_reason, "malformed")
        if choice.message.refusal:
            outcome = "refusal"
        if outcome == "ok" and not text:
            outcome = "empty"
        used = answer.usage
        details = used.prompt_tokens_details if used else None
        cached = (details.cached_tokens or 0) if details else 0
        usage = Usage(
            input=used.prompt_tokens - cached if used else 0,
            output=used.completion_tokens if used else 0,
            cache_read=cached,
        )
        return Reply(text, outcome, str(choice.finish_reason), answer.model, usage)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx2
        import openai

        where = self._base_url or "the OpenAI service"
        try:
            yield
        except openai.APIConnectionError as error:
            never_sent = isinstance(error.__cause__, (httpx2.ConnectError, httpx2.ConnectTimeout))
            raise Broken(f"{where}: {type(error.__cause__).__name__}", not never_sent) from None
        except openai.APIStatusError as error:
            said = scrub(error.message, self._key)
            if error.status_code in BUSY:
                raise Busy(said, retry_after(error.response.headers)) from None
            if error.status_code >= 500:
                raise Broken(said, False) from None
            raise BackendError(f"{where} refuses the call: {said}") from None
        except (openai.APIResponseValidationError, ValueError) as error:
            raise Broken(f"the answer cannot be read ({type(error).__name__})", True) from None
