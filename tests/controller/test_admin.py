"""The operator's probes and metrics."""

from __future__ import annotations

import aiohttp

from weir.controller.admin import admin_server
from weir.observability.operator_metrics import DESIRED, forget_model


async def test_probes_say_what_is_wrong_and_metrics_are_prometheus() -> None:
    wrong = {"alive": "", "ready": "not yet"}
    async with (
        admin_server("127.0.0.1", 0, lambda: wrong["alive"], lambda: wrong["ready"]) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):

        async def get(path: str) -> tuple[int, str]:
            async with http.get(path) as answer:
                return answer.status, await answer.text()

        assert await get("/healthz") == (200, "ok")
        assert await get("/readyz") == (503, "not yet")
        wrong |= {"alive": "stuck", "ready": ""}
        assert await get("/healthz") == (503, "stuck")
        assert await get("/readyz") == (200, "ok")
        DESIRED.labels("n", "m").set(3)
        status, text = await get("/metrics")
        assert status == 200
        assert 'weir_model_desired_replicas{model="m",namespace="n"} 3.0' in text
        forget_model("n", "m")
        assert 'model="m"' not in (await get("/metrics"))[1]
