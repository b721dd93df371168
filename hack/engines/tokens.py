"""Tokens without a tokenizer: four bytes are one. Generated text obeys it too, so a conversation sent back counts what was generated."""

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

BYTES = 4
# three letters and a space: one token each
_LETTERS = (
    "theandforyousayhershehimhashadhowmannewnowoldseetwowaywhoboydiditsletputtoousedaygetownmay"
    "sunseaskyairicefogoakelmfirbeeowlfoxcatdogcowhenantbateelemuramewejamteapieeggbunfignutoat"
)
WORDS = [_LETTERS[i : i + 3] + " " for i in range(0, len(_LETTERS), 3)]


def count(text: str) -> int:
    return -(-len(text.encode()) // BYTES)


def encode(text: str) -> list[int]:
    """One number for every four bytes, from which `decode` makes the bytes again: a 1 in front keeps their zeros."""
    raw = text.encode()
    return [int.from_bytes(raw[i : i + BYTES] + b"\1", "little") for i in range(0, len(raw), BYTES)]


def decode(tokens: Iterable[int]) -> str:
    """The text of numbers below 2**63, from `encode` or not."""
    return b"".join(t.to_bytes(8, "little").rstrip(b"\0")[:-1] for t in tokens).decode(errors="replace")


def text(seed: int, start: int, tokens: int) -> str:
    """Tokens `start`.. of the endless text that belongs to `seed`."""
    return "".join(WORDS[(seed + i * i + i) % len(WORDS)] for i in range(start, start + tokens))


def seed(prompt: str, choice: int) -> int:
    return zlib.crc32(prompt.encode()) + choice


def render_chat(messages: Sequence[tuple[str, str]]) -> str:
    """(role, text) pairs as one prompt, in the manner of ChatML, ready for the assistant's turn."""
    return (
        "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages) + "<|im_start|>assistant\n"
    )


class PrefixCache:
    """Which prompt prefixes are warm: hashes of whole blocks, each chained to the one before it, least recently used out first."""

    def __init__(self, blocks: int, block: int) -> None:
        self._capacity = blocks
        self._block = block
        self._warm: OrderedDict[int, None] = OrderedDict()

    def lookup(self, prompt: str, salt: str | None) -> int:
        """Tokens of the prompt that are warm already; all of it is warm afterwards. The last token is never cached: it must be computed."""
        raw, size = prompt.encode(), self._block * BYTES
        chain, hits, missed = hash(salt), 0, False
        for start in range(0, len(raw) - size, size):
            chain = hash((chain, raw[start : start + size]))
            if chain in self._warm and not missed:
                hits += 1
            else:
                missed = True
            self._warm[chain] = None
            self._warm.move_to_end(chain)
        while len(self._warm) > self._capacity:
            self._warm.popitem(last=False)
        return hits * self._block
