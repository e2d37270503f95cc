"""HttpUpstream: a model at one URL or several, over HTTP, unbuffered."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from flaxen.router_config.models import BackendRef, ProviderModel
from flaxen.routing.http_client import HttpClient, NotConnectedError
from flaxen.routing.upstream import Answer, Call, Headers, UpstreamError, of_connection

_CHATS = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A server of a model: where its API is, the path of its chats there ("": the API's own), its
    share of the requests, and the headers that it gets beside the client's."""

    base_url: str
    chat_path: str
    weight: int
    headers: Headers

    def url(self, path: str) -> str:
        """The URL of an API's path. A base URL with a path of its own has /v1 in it, or stands for
        it, as OpenAI's clients have it; its query stays behind the path."""
        parts = urlsplit(self.base_url)
        base = parts.path.rstrip("/")
        if self.chat_path and path == _CHATS:
            path = self.chat_path
        elif base:
            path = path.removeprefix("/v1")
        return parts._replace(path=base + path).geturl()


class HttpUpstream:
    """Sends requests to the servers of a model, to each its share. One that does not accept the
    connection is passed over, because it has seen nothing of the request.

    Args:
      client: keeps connections; it belongs to whoever made it.
      backends: at least one, all with a weight.
    """

    def __init__(self, client: HttpClient, backends: Sequence[Backend]) -> None:
        self._client, self._backends = client, backends

    async def send(self, call: Call) -> Answer:
        """As Upstream says."""
        refused = []
        for backend in sorted(self._backends, key=lambda b: -(random.random() ** (1 / b.weight))):
            url, own = backend.url(call.path), dict(backend.headers)
            headers = [pair for pair in call.headers if pair[0] not in own] + list(own.items())
            try:
                answer = await self._client.send(call.method, url, tuple(headers), call.body)
            except NotConnectedError as error:
                refused.append(str(error))
                continue
            dropped = of_connection(answer.headers)
            kept = tuple(pair for pair in answer.headers if pair[0] not in dropped)
            return replace(answer, headers=kept)
        raise UpstreamError("; ".join(refused))


def backends_of(model: ProviderModel, environment: Mapping[str, str]) -> tuple[Backend, ...]:
    """The servers of a model.

    Args:
      environment: the variables that may have their keys.

    Raises:
      ValueError: a key is not there.
    """
    return tuple(_backend(ref, model, environment) for ref in model.backend_refs if ref.weight)


def _backend(ref: BackendRef, model: ProviderModel, environment: Mapping[str, str]) -> Backend:
    key = ref.api_key or environment.get(ref.api_key_env, "")
    if ref.api_key_env and not key:
        raise ValueError(
            f"the environment has no {ref.api_key_env}, the api_key_env of {model.name}: set it"
        )
    headers = {name.lower(): value for name, value in ref.extra_headers.items()}
    if key and model.api and not ref.auth_header:
        headers["x-api-key"] = key
    elif key:
        headers[(ref.auth_header or "authorization").lower()] = f"{ref.auth_prefix} {key}".strip()
    return Backend(
        base_url=ref.url,
        chat_path=ref.chat_path,
        weight=ref.weight,
        headers=tuple(headers.items()),
    )
