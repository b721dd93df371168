"""A strict stub of an OpenAI-compatible API: keys, prices, limits, refusals, and a bill of its own to hold others' accounts against.

`python -m engines.frontier --port 9000 --key sk-test --model gpt-5-mini=0.25/0.025/2`
"""
