"""Several Macs, or processes, that train together: each computes its share, the first one writes.

Reads and writes no file. `mlx.launch` starts the processes and tells each its rank in the
environment; without it there is one rank, and nothing here opens a connection.
Fails: ToolError where the others cannot be reached, DataError where they hold other data.
"""

import functools
import itertools
import json
import os
from typing import Any, NamedTuple

from coach_mlx import mlx_runtime
from coach_mlx.errors import DataError, ToolError
from coach_mlx.supervisor import RANKS


def launched() -> bool:
    """Whether this process is one of several."""
    return any(name in os.environ for name in RANKS)


def follows() -> bool:
    """Whether another process leads: only that one writes files and speaks."""
    return any(os.environ.get(name, "0") != "0" for name in RANKS)


class Ranks(NamedTuple):
    rank: int
    size: int

    def sum(self, arrays: Any) -> Any:
        """A tree of arrays, added up over all ranks."""
        if self.size == 1:
            return arrays
        from mlx.utils import tree_flatten, tree_unflatten

        # By name: a tree that was read from a file has another order, and ranks that add up
        # different arrays wait for each other for ever.
        leaves = sorted(tree_flatten(arrays))
        summed: list[tuple[str, Any]] = []
        for kind in sorted({str(one.dtype) for _, one in leaves}):
            summed += _sum_at_once([leaf for leaf in leaves if str(leaf[1].dtype) == kind])
        return tree_unflatten(summed)

    def share(self, value: Any = None) -> Any:
        """The leader's value, for all: whatever JSON can say."""
        if self.size == 1:
            return value
        import mlx.core as mx

        text = json.dumps(value).encode() if self.rank == 0 else b""
        length = int(self.sum(mx.array(len(text))).item())
        padded = list(text) or [0] * length
        return json.loads(bytes(self.sum(mx.array(padded, dtype=mx.int32)).tolist()))

    def follow_leader(self, arrays: Any) -> Any:
        """The leader's arrays, for all."""
        import mlx.core as mx
        from mlx.utils import tree_map

        return self.sum(tree_map(lambda one: one if self.rank == 0 else mx.zeros_like(one), arrays))

    def require_same(self, fingerprint: str, what: str) -> None:
        """Raises: DataError where another rank's is not the leader's."""
        if self.size == 1:
            return
        import mlx.core as mx

        differs = mx.array(int(self.share(fingerprint) != fingerprint))
        if self.sum(differs).item():
            raise DataError(
                f"The Macs do not hold the same {what}. Copy output/, models/ and config/ of the "
                "first one to all others."
            )


@functools.cache
def join() -> Ranks:
    """Meet the others; alone where nobody launched several."""
    if not launched():
        return Ranks(0, 1)
    mlx_runtime.prepare()
    import mlx.core as mx

    try:
        group = mx.distributed.init(strict=True)
    except RuntimeError as error:
        raise ToolError(
            f"The other processes of this training cannot be reached: {error}. "
            "Start all of them with: mlx.launch --hostfile hosts.json -- coach train"
        ) from None
    return Ranks(group.rank(), group.size())


def _sum_at_once(leaves: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """One message instead of hundreds of small ones, each of which would wait for the network."""
    import mlx.core as mx

    joined = mx.concatenate([one.reshape(-1) for _, one in leaves])
    summed = mx.distributed.all_sum(joined, stream=mx.cpu)
    ends = list(itertools.accumulate(one.size for _, one in leaves))
    parts = mx.split(summed, ends[:-1])
    return [
        (name, part.reshape(one.shape)) for (name, one), part in zip(leaves, parts, strict=True)
    ]
