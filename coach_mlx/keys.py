"""Where a service's key comes from, and how it is kept out of every text.

Reads the environment and, on macOS, the Keychain; writes nothing. Fails: ToolError that says how to
store one.
"""

import os
import subprocess
import sys

from coach_mlx.errors import ToolError

KEYCHAIN_SERVICE = "coach_mlx"


def find_key(name: str) -> str:
    """The key called `ANTHROPIC_API_KEY` or the like. Raises: ToolError where there is none."""
    key = stored_key(name)
    if key is None:
        keychain = (
            f" or, in the macOS Keychain: security add-generic-password -s {KEYCHAIN_SERVICE} "
            f"-a {name} -w"
            if sys.platform == "darwin"
            else ""
        )
        raise ToolError(
            f"There is no {name}. Set it for this terminal: export {name}=…{keychain}\n"
            "Or use a model on this machine, such as ollama/qwen3:8b; no key is needed for that."
        )
    return key


def stored_key(name: str) -> str | None:
    key = os.environ.get(name, "").strip()
    if not key and sys.platform == "darwin":
        key = _from_keychain(name)
    return key or None


def _from_keychain(name: str) -> str:
    command = ["security", "find-generic-password", "-s", KEYCHAIN_SERVICE, "-a", name, "-w"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def scrub(text: str, key: str) -> str:
    """The text without the key, should a service have quoted it."""
    return text.replace(key, "[key]") if key else text
