"""As much of a Kubernetes client as starting a cluster takes: one request, one answer, nothing asynchronous."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any


class ApiError(RuntimeError):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """An API server and a user's token."""

    def __init__(self, host: str, port: int, ca: Path, token: str) -> None:
        self._host, self._port, self._token = host, port, token
        self._tls = ssl.create_default_context(cafile=str(ca))

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        timeout: float = 30,
    ) -> Any:
        """The decoded answer (of /readyz and the like: the text). Raises ApiError, or OSError where nobody listens.

        timeout: seconds without a byte.
        """
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read().decode()
            if answer.status >= 400:
                raise ApiError(answer.status, content)
            return json.loads(content) if "json" in answer.headers.get("Content-Type", "") else content
        finally:
            connection.close()

    def apply(self, path: str, body: object) -> Any:
        """Server-side apply of one object to its path."""
        query = "?fieldManager=hack&force=true"
        return self.request("PATCH", path + query, body, "application/apply-patch+yaml")

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def ready(self) -> bool:
        """Whether the API server is there and says it is ready."""
        try:
            self.request("GET", "/readyz", timeout=5)
        except (OSError, http.client.HTTPException, ApiError):
            return False
        return True
