"""The Ollama server on this machine, through its official client: loopback only, and every request
in the egress log.

A step that breaks off is named in the error, and its own errors end here. A name is moved only as
`point` does it: copied, then looked up again by its digest.
Fails: ConfigError where OLLAMA_HOST is another machine, ToolError where no server answers, its disk
is full or it is too old, BackendError where it ends midway, GateFailed for a template it refuses.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coach_mlx import egress
from coach_mlx.errors import BackendError, ConfigError, GateFailed, ToolError
from coach_mlx.prices import LOCAL_HOSTS

EVERY_INTERFACE = ("0.0.0.0", "::")
READ_SECONDS = 1800.0
"""Between two signs of life: a server says nothing while it stores many gigabytes."""
FULL = "no space left"
UNREADABLE = "llama-quantize failed"
FREED = "Make room; what it took is given back when Ollama starts again."


class Server:
    """`stands` is what every error adds: what still holds, and what to type."""

    def __init__(self, egress_log: Path, stands: str) -> None:
        import httpx
        import ollama

        # No proxy and no redirect: what is meant for this machine must not be carried elsewhere.
        self._client = ollama.Client(
            timeout=httpx.Timeout(READ_SECONDS, connect=10.0),
            follow_redirects=False,
            trust_env=False,
            event_hooks=egress.blocking_hooks(egress_log),
        )
        self.address = str(self._client._client.base_url)
        host = self._client._client.base_url.host
        if host not in (*LOCAL_HOSTS, *EVERY_INTERFACE):
            raise ConfigError(
                f"OLLAMA_HOST names another machine ({host}), and the coach stays on this one. "
                "Type: unset OLLAMA_HOST"
            )
        self._stands = stands
        self._answered = False

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    def version(self) -> str:
        with self._translated("asking for its version"):
            return str(self._send("GET", "/api/version").get("version", "unknown"))

    def digests(self) -> dict[str, str]:
        """Every name the server has, and the digest of what it points at."""
        with self._translated("listing its models"):
            models = self._client.list().models
        return {str(one.model): str(one.digest) for one in models}

    def create(self, name: str, weights: Path, adapter: Path | None, **what: Any) -> None:
        """A model of a GGUF file; a name that stands is replaced in one step, at the end."""
        with self._translated(f"taking {weights.name}"):
            files = {weights.name: self._client.create_blob(weights)}
            adapters = {adapter.name: self._client.create_blob(adapter)} if adapter else None
        with self._translated(f"making {name}"):
            for _ in self._client.create(name, files=files, adapters=adapters, stream=True, **what):
                pass

    def show(self, name: str) -> dict[str, Any]:
        with self._translated(f"reading {name} back"):
            return self._send("POST", "/api/show", {"model": name})

    def rendered(self, name: str, messages: list[dict[str, str]]) -> str | None:
        """The text the model would be given; `None` from a server that does not know how to say
        it (and would answer with a token instead).
        """
        body = {
            "model": name,
            "messages": messages,
            "stream": False,
            "truncate": False,
            "options": {"num_predict": 1},
            "_debug_render_only": True,
        }
        with self._translated("rendering a conversation"):
            found = self._send("POST", "/api/chat", body).get("_debug_info") or {}
        text = found.get("rendered_template")
        return None if text is None else str(text)

    def chat(self, name: str, messages: list[dict[str, str]], **options: Any) -> Any:
        with self._translated("answering"):
            return self._client.chat(model=name, messages=messages, options=options)

    def point(self, name: str, source: str, digest: str) -> None:
        """Let a name stand for what another stands for. Raises: BackendError where it does not."""
        with self._translated(f"pointing {name} at {source}"):
            self._client.copy(source, name)
        if self.digests().get(name) != digest:
            raise BackendError(f"Ollama did not point {name} at {source}. {self._stands}")

    def forget(self, name: str) -> None:
        """Drop a name, where there is one; what other names stand for stays."""
        import ollama

        with self._translated(f"dropping {name}"), contextlib.suppress(ollama.ResponseError):
            self._client.delete(name)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """For answers that hold more than the client's own types do."""
        send: Any = self._client._request_raw
        return dict(send(method, path, json=body).json())

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        import httpx
        import ollama

        try:
            yield
        except ollama.ResponseError as error:
            raise self._explained(_said(error.error), doing) from None
        except (ConnectionError, httpx.TransportError) as error:
            if self._answered:
                raise BackendError(
                    f"Ollama broke off while {doing} ({type(error).__name__}). {self._stands}"
                ) from None
            raise ToolError(
                f"No Ollama answers at {self.address}. Start it with: ollama serve (or open the "
                f"Ollama app; it comes from ollama.com/download). {self._stands}"
            ) from None
        except ValueError as error:
            raise BackendError(
                f"What answers at {self.address} is no Ollama, or it broke off while {doing} "
                f"({type(error).__name__}). {self._stands}"
            ) from None
        self._answered = True

    def _explained(self, said: str, doing: str) -> Exception:
        if FULL in said:
            return ToolError(
                f"Ollama's disk is full ({said}), while {doing}. {FREED} {self._stands}"
            )
        if UNREADABLE in said:
            return ToolError(
                f"Ollama could not check and store the weights ({said}), while {doing}: most "
                "often its disk is full, because it keeps them twice for a while. "
                f"{FREED} {self._stands}"
            )
        if said.startswith("template error"):
            return GateFailed(f"Ollama cannot read the TEMPLATE: {said}. {self._stands}")
        return BackendError(f"Ollama failed while {doing}: {said}. {self._stands}")


def _said(text: str) -> str:
    return " ".join(text.split())[:400].rstrip(".")
