"""A simulated vLLM 0.32 server: its routes, bodies, errors, admission, metrics and shutdown, at the speed of a calibrated GPU, without one.

`python -m engines.vllm serve --model NAME ...` takes vLLM's arguments and a few of its own (--sim-*, or SIM_* in the environment).
tests/engines/test_contract.py holds it against recorded answers of the real engine.
"""

VERSION = "0.32.0"
