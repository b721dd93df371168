"""What /metrics says: vLLM's names, labels and buckets (loggers.py of 0.32). Times are wall-clock:
a time scale shows as a faster engine."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_LATENCY = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
_TTFT = [
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
]
_ITL = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
_ITERATION = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
_FINISHED = ("stop", "length", "abort", "error", "repetition")


def _one_two_five(limit: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... up to the limit: vLLM's buckets for token counts."""
    return [m * 10**e for e in range(len(str(limit))) for m in (1, 2, 5) if m * 10**e <= limit]


class Metrics:
    """Every family of vLLM's that a text model shows. What never moves here (LoRA, multimodal, offloading) is there and stays 0."""

    def __init__(self, model: str, max_model_len: int, blocks: int, block: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        labels = {"model_name": model, "engine": "0"}

        def counter(name: str, help_: str) -> Counter:
            return Counter(f"vllm:{name}", help_, list(labels), registry=self.registry).labels(**labels)

        def counters(name: str, help_: str, label: str, values: tuple[str, ...]) -> dict[str, Counter]:
            family = Counter(f"vllm:{name}", help_, [*labels, label], registry=self.registry)
            return {value: family.labels(**labels, **{label: value}) for value in values}

        def histogram(name: str, help_: str, buckets: list[int] | list[float]) -> Histogram:
            return Histogram(f"vllm:{name}", help_, list(labels), registry=self.registry, buckets=buckets).labels(
                **labels
            )

        def gauge(name: str, help_: str) -> Gauge:
            return Gauge(f"vllm:{name}", help_, list(labels), registry=self.registry).labels(**labels)

        tokens = _one_two_five(max_model_len)
        self._running = gauge("num_requests_running", "Requests in the batch.")
        self._waiting = gauge("num_requests_waiting", "Requests that wait.")
        reasons = Gauge(
            "vllm:num_requests_waiting_by_reason", "Why they wait.", [*labels, "reason"], registry=self.registry
        )
        self._capacity = reasons.labels(**labels, reason="capacity")
        reasons.labels(**labels, reason="deferred").set(0)
        self._kv_usage = gauge("kv_cache_usage_perc", "KV cache in use; 1 is all of it.")
        sleep = Gauge("vllm:engine_sleep_state", "Asleep or awake.", [*labels, "sleep_state"], registry=self.registry)
        for state in ("awake", "weights_offloaded", "discard_all"):
            sleep.labels(**labels, sleep_state=state).set(state == "awake")
        config = {"block_size": str(block), "num_gpu_blocks": str(blocks), "kv_cache_size_tokens": str(blocks * block)}
        Gauge("vllm:cache_config_info", "KV cache.", ["engine", *config], registry=self.registry).labels(
            engine="0", **config
        ).set(1)

        self.prefix_queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.prefix_hits = counter("prefix_cache_hits", "Prompt tokens found there.")
        self.preemptions = counter("num_preemptions", "Preemptions.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens processed.")
        self.prompt_cached = counter("prompt_tokens_cached", "Prompt tokens taken from a cache.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.by_source = counters(
            "prompt_tokens_by_source",
            "Prompt tokens.",
            "source",
            ("local_compute", "local_cache_hit", "external_kv_transfer"),
        )
        self.cached_by_source = counters(
            "prompt_tokens_cached_by_source",
            "Hits.",
            "source",
            ("device", "host", "p2p", "disk", "external_unspecified"),
        )
        self.success = counters("request_success", "Requests that ended.", "finished_reason", _FINISHED)
        rejections = Counter(
            "vllm:admission_rejections", "Refused by a queue limit.", ["model_name", "reason"], registry=self.registry
        )
        self.rejected = rejections.labels(model_name=model, reason="max_num_queued_reqs")
        rejections.labels(model_name=model, reason="max_num_queued_tokens")
        for still in (
            "external_prefix_cache_queries",
            "external_prefix_cache_hits",
            "mm_cache_queries",
            "mm_cache_hits",
        ):
            counter(still, "Not simulated.")
        for still in ("estimated_flops_per_gpu", "estimated_read_bytes_per_gpu", "estimated_write_bytes_per_gpu"):
            counter(still, "Not simulated.")

        self.ttft = histogram("time_to_first_token_seconds", "Arrival to first token.", _TTFT)
        self.inter_token = histogram("inter_token_latency_seconds", "Between two tokens.", _ITL)
        self.per_token = histogram("request_time_per_output_token_seconds", "Mean of a request.", _ITL)
        self.e2e = histogram("e2e_request_latency_seconds", "Arrival to end.", _LATENCY)
        self.queue = histogram("request_queue_time_seconds", "Waiting.", _LATENCY)
        self.inference = histogram("request_inference_time_seconds", "Running.", _LATENCY)
        self.prefill = histogram("request_prefill_time_seconds", "Admission to first token.", _LATENCY)
        self.decode = histogram("request_decode_time_seconds", "First token to last.", _LATENCY)
        self.request_prompt = histogram("request_prompt_tokens", "Prompt tokens.", tokens)
        self.request_generation = histogram("request_generation_tokens", "Tokens generated.", tokens)
        self.request_max_generation = histogram("request_max_num_generation_tokens", "Most tokens of a choice.", tokens)
        self.request_n = histogram("request_params_n", "Parameter n.", [1, 2, 5, 10, 20])
        self.request_max_tokens = histogram("request_params_max_tokens", "Parameter max_tokens.", tokens)
        self.request_preemptions = histogram("request_num_preemptions", "Preemptions.", [1, 2, 3, 4, 5, 10, 20])
        self.request_computed = histogram("request_prefill_kv_computed_tokens", "Prompt tokens computed.", tokens)
        self.iteration = histogram("iteration_tokens_total", "Tokens of a step.", _ITERATION)

    def watch(self, running: Callable[[], float], waiting: Callable[[], float], kv_usage: Callable[[], float]) -> None:
        """Reads the gauges when they are asked for, so that they fall as soon as the load does."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)
        self._capacity.set_function(waiting)
        self._kv_usage.set_function(kv_usage)
