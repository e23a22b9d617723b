"""A chat template that comes with a model, tried before it is trusted.

Jinja's sandbox keeps a template away from Python, but not from looping for ever or filling the
memory. So it is rendered once in a process of its own that may do neither. Reads and writes no
file. Fails: DataError where it does not end.
"""

import json
import subprocess
import sys

from coach_mlx.errors import DataError

SECONDS = 5
MEMORY_BYTES = 2 * 2**30
CHAT = [
    {"role": role, "content": "Hi"} for role in ("system", "user", "assistant", "user", "assistant")
]

PROGRAM = f"""
import json, resource, sys
for limit, most in ((resource.RLIMIT_CPU, {SECONDS}), (resource.RLIMIT_AS, {MEMORY_BYTES})):
    try:
        resource.setrlimit(limit, (most, most))
    except (OSError, ValueError):
        pass  # not every system has both
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
def refuse(*words):
    raise TemplateError(*words)
given = json.load(sys.stdin)
try:
    room = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    room.globals |= {{"raise_exception": refuse, "strftime_now": lambda form: form}}
    for chat in (given["chat"], given["chat"][1:]):
        room.from_string(given["template"]).render(
            messages=chat, add_generation_prompt=True, bos_token="", eos_token=""
        )
except MemoryError:
    sys.exit(3)
except Exception:
    pass  # what it refuses is found, and named, where it is used
"""


def require_end(template: str, where: str) -> None:
    """`where` says whose template it is."""
    given = json.dumps({"template": template, "chat": CHAT})
    try:
        code = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM],
            input=given,
            text=True,
            timeout=SECONDS + 5,
            capture_output=True,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        code = 1
    if code:
        raise DataError(
            f"The chat template of {where} does not come to an end, or fills the memory. A model "
            "that brings such a thing is not to be trusted: get it anew from its maker."
        )
