"""How long one engine step takes, fitted to measured GPUs. Pure.

A continuous-batching engine computes in steps: each running sequence gets one token, and what is left of the token
budget goes to prompts (chunked prefill). Four constants describe a step well enough:

    step = a + b * sequences + p * prompt tokens computed + g * KV tokens read

a: reading the weights, b: sampling and scheduling a sequence, p: computing a prompt token, g: reading one cached token's keys and values.

The constants are non-negative least squares fits of the closed-loop mean TPOT = a + b c + p c isl/osl + g c (isl + osl/2),
c being the concurrency, to measured points of NVIDIA's AIConfigurator (silicon_sample.csv in the wheel aiconfigurator-core
0.12.0, Apache-2.0); mean and largest relative error of each fit are noted beside it. KV capacities are not in that data: they
are worked out in the comments.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class StepModel:
    """Constants of one model on one kind of replica.

    `a_ms` milliseconds, `b_us` microseconds a sequence, `p_us` microseconds a prompt token, `g_ns` nanoseconds a KV token;
    `kv_tokens` is the size of the KV cache, `block` the tokens of one of its blocks, `max_batched_tokens` the most tokens in one step.
    """

    a_ms: float
    b_us: float
    p_us: float
    g_ns: float
    kv_tokens: int
    max_batched_tokens: int = 8192
    block: int = 16
    max_model_len: int = 32768

    def __post_init__(self) -> None:
        if min(self.a_ms, self.b_us, self.p_us, self.g_ns) < 0 or self.a_ms <= 0:
            raise ValueError("step constants must not be negative, and a step takes some time")
        if self.kv_tokens < self.block or self.block < 1 or self.max_batched_tokens < 1 or self.max_model_len < 1:
            raise ValueError(
                "kv_tokens must hold a block; block, max_batched_tokens and max_model_len must be positive"
            )

    @property
    def kv_blocks(self) -> int:
        return self.kv_tokens // self.block

    def seconds(self, sequences: float, prompt_tokens: float, kv_tokens: float) -> float:
        """Duration of one step over `sequences` that computes `prompt_tokens` and reads `kv_tokens`."""
        microseconds = (
            self.a_ms * 1e3 + self.b_us * sequences + self.p_us * prompt_tokens + self.g_ns * 1e-3 * kv_tokens
        )
        return microseconds * 1e-6

    def mean_tpot(self, concurrency: float, prompt: float, output: float) -> float:
        """Mean seconds between two tokens of a stream in closed loop, which is what the constants were fitted by.

        A stream gets a token a step; in that step each of the others has on average prompt + output/2 tokens in the cache
        and, one time in `output`, its successor's prompt is computed."""
        return self.seconds(concurrency, concurrency * prompt / output, concurrency * (prompt + output / 2))

    def faster(self, factor: float) -> "StepModel":
        """The same replica `factor` times as fast."""
        return replace(
            self, a_ms=self.a_ms / factor, b_us=self.b_us / factor, p_us=self.p_us / factor, g_ns=self.g_ns / factor
        )


# KV capacity = (0.9 * GPU memory - weights - about 4 GB a GPU for activations and graphs) / bytes a token,
# bytes a token = 2 (K and V) * layers * KV heads * head size * 2 (bf16).
PRESETS: dict[str, StepModel] = {
    # 262,144 B a token (64 layers, 8 heads, 128). TP2: 144 - 65.5 - 8 = 70 GB. It agrees with the cliff in the data: at 4096/1024 the mean
    # TTFT goes from 4.4 s at c = 64 to 59 s at c = 128, so about 60 sequences of 4.6k tokens fit.
    "qwen3-32b-h100-tp2": StepModel(13.96, 57.1, 49.0, 54.2, kv_tokens=268_000),  # 26 points, 2.0 % / 9 %
    "qwen3-32b-h100-tp4": StepModel(9.26, 60.8, 28.8, 25.3, kv_tokens=788_000),  # 30 points, 1.8 % / 9 %
    "qwen3-32b-h100-tp8": StepModel(7.02, 65.9, 18.0, 10.7, kv_tokens=1_820_000),  # 30 points, 2.1 % / 12 %
    # 131,072 B a token (32 layers, 8 heads, 128): 72 - 16 - 4 = 52 GB. Measured with TensorRT-LLM 1.0rc3.
    "llama-3.1-8b-h100": StepModel(6.42, 0.0, 19.6, 49.9, kv_tokens=396_000),  # 42 points, 1.8 % / 7 %
    # 327,680 B a token (80 layers, 8 heads, 128), weights in FP8 70 GB.
    "llama-3.1-70b-fp8-h100-tp2": StepModel(16.55, 41.0, 68.8, 58.1, kv_tokens=201_000),  # 12 points, <= 2.5 % / 7 %
    "llama-3.1-70b-fp8-h100-tp4": StepModel(11.02, 55.0, 44.6, 27.9, kv_tokens=616_000),  # 15 points, <= 2.5 % / 7 %
    "llama-3.1-70b-fp8-h100-tp8": StepModel(8.82, 63.0, 29.8, 11.5, kv_tokens=1_446_000),  # 15 points, <= 2.5 % / 7 %
    "llama-3.1-70b-fp8-h200": StepModel(20.06, 66.0, 106.0, 86.0, kv_tokens=160_000),  # 12 points, 2.5 % / 10 %
    # 73,728 B a token (36 layers, 8 heads, 64), weights in FP4 65 GB: 126 - 65 - 4 = 57 GB.
    "gpt-oss-120b-fp4-h200": StepModel(5.28, 316.0, 34.8, 0.0, kv_tokens=773_000),  # 18 points, 7.3 % / 14 %
}
