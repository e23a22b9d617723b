"""How often the imported base predicts what llama.cpp predicts from the same file.

Every position of every starter conversation; some minutes on two cores.
Run: .venv/bin/python benchmarks/import_parity.py
"""

import sys
import tempfile
from pathlib import Path

from coach_mlx import chat_format, importer, llama_runtime, mlx_runtime
from coach_mlx.config import load_config
from coach_mlx.workspace import PROJECT, Workspace, read_conversations


def main() -> None:
    mlx_runtime.prepare()
    import mlx.core as mx
    import numpy as np

    config = load_config(PROJECT / "config" / "demo.yaml")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), config)
        importer.run(config, workspace)
        loaded = mlx_runtime.open_model(workspace.base)
        llama = llama_runtime.open_gguf(importer.packaged_gguf(), num_ctx=4096)
        same = total = 0
        for one in read_conversations(PROJECT / config.dataset.conversations):
            ids = chat_format.encode_conversation(loaded.tokenizer, one.chat()).token_ids
            ours = np.array(mx.argmax(loaded.model(mx.array([ids])), axis=-1)[0])
            same += int((ours == llama_runtime.likeliest_tokens(llama, ids)).sum())
            total += len(ids)
            sys.stdout.write(f"{same / total:.4f} of {total:,} positions\n")
    sys.stdout.write(f"{mlx_runtime.machine()}\n")


if __name__ == "__main__":
    main()
