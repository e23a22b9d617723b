"""How fast a Mac's chip reads its memory, which is what the speed of a talk hangs on.

Reads and writes nothing. To write a token, every weight is read once, so bandwidth / weights is a
bound that no program passes; what is reached is less. It is computed and never measured.
Source: the technical specifications that Apple publishes of each Mac; of a chip that is sold with
several bandwidths the smallest. Chips that are not in the table are unknown, and nothing is guessed
of them.
"""

BANDWIDTH = {
    "M1": 68,
    "M1 Pro": 200,
    "M1 Max": 400,
    "M1 Ultra": 800,
    "M2": 100,
    "M2 Pro": 200,
    "M2 Max": 400,
    "M2 Ultra": 800,
    "M3": 100,
    "M3 Pro": 150,
    "M3 Max": 300,
    "M3 Ultra": 819,
    "M4": 120,
    "M4 Pro": 273,
    "M4 Max": 410,
    "M5": 153,
}
"""GB (10^9 bytes) a second."""
SPEEDS = (
    (5.0, "slower than you read"),
    (15.0, "about as fast as you read"),
    (40.0, "faster than you read"),
)
"""Tokens a second up to which the words hold. A person reads some four words a second (238 a
minute: Brysbaert 2019), and a word is taken for 1.3 tokens of English.
"""
FASTEST = "much faster than you read"
UNKNOWN = "unknown"


def bandwidth_of(machine: str) -> int | None:
    """GB a second of the chip that a machine's words name; `None` where it is none of Apple's."""
    known = [chip for chip in BANDWIDTH if f"Apple {chip}," in f"{machine.split(',')[0]},"]
    return BANDWIDTH[known[0]] if known else None


def most_tokens_per_second(bandwidth: int | None, weight_bytes: int) -> float | None:
    """Computed: no program is faster."""
    return None if bandwidth is None else bandwidth * 1e9 / weight_bytes


def speed_class(tokens_per_second: float | None) -> str:
    if tokens_per_second is None:
        return UNKNOWN
    return next((words for most, words in SPEEDS if tokens_per_second < most), FASTEST)
