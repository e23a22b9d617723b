"""A GGUF file written tensor by tensor, and read back.

Writes: the file that is named, whole on the disk before this returns. Fails: ToolError where the
disk is full, DataError where a file that is read is no GGUF.
"""

import contextlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coach_mlx import gguf_facts, gguf_tensors, llama_runtime, model_facts
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError, disk_trouble
from coach_mlx.gguf_tensors import Tensor

ARCHITECTURE = "general.architecture"


def write_model(folder: Path, tokenizer: Any, config: Config, type_: str, path: Path) -> None:
    """A model folder as a GGUF file in `type_`: F32, F16, BF16 or Q8_0."""
    facts = gguf_facts.describe(folder, tokenizer, config, type_)
    write(path, facts, gguf_tensors.tensors(folder, model_facts.read(folder), type_))


def write(path: Path, facts: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
    """`facts` holds strings, numbers, booleans and lists of one of them, by GGUF key; a list's
    numbers are signed.
    """
    writer = _writer(facts[ARCHITECTURE])
    for key, value in facts.items():
        if key != ARCHITECTURE:
            writer.add_key_value(key, value, _kind(value))
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, None, tensor.nbytes, tensor.type)
    try:
        _write_all(writer, path, tensors)
    except OSError as error:
        raise ToolError(f"{path} could not be written: {disk_trouble(error) or error}") from None
    finally:
        with contextlib.suppress(OSError):  # what could not be written is not written now
            writer.close()


def _write_all(writer: Any, path: Path, tensors: Sequence[Tensor]) -> None:
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor)
    writer.flush()
    os.fsync(writer.fout[0].fileno())


def _writer(architecture: str) -> Any:
    """`gguf.GGUFWriter`, which packs texts one by one; here a list of them is packed at once, which
    takes a tenth of the time for a vocabulary of 150,000.
    """
    import gguf

    class Writer(gguf.GGUFWriter):  # type: ignore[misc]
        def _pack_val(
            self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None
        ) -> bytes | bytearray:
            if not (isinstance(val, list) and val and isinstance(val[0], str)):
                return bytes(super()._pack_val(val, vtype, add_vtype, sub_type))
            head = struct.pack("<I", vtype) if add_vtype else b""
            head += struct.pack("<IQ", gguf.GGUFValueType.STRING, len(val))
            texts = [text.encode() for text in val]
            return head + b"".join(struct.pack("<Q", len(text)) + text for text in texts)

    return Writer(path=None, arch=architecture)


def _kind(value: Any) -> Any:
    import gguf

    types = gguf.GGUFValueType
    if isinstance(value, list):
        return types.ARRAY
    plain = {bool: types.BOOL, int: types.UINT32, float: types.FLOAT32, str: types.STRING}
    return plain[type(value)]


def read(path: Path) -> Any:
    """`gguf.GGUFReader`, which maps the file into memory. Raises: ToolError, DataError."""
    import gguf

    llama_runtime.require_whole_gguf(path)
    with _damage_named(path):
        return gguf.GGUFReader(path)


def read_facts(reader: Any) -> dict[str, Any]:
    """Every key and value. Raises: DataError where one cannot be read."""
    with _damage_named(Path(str(reader.data.filename))):
        return {
            key: field.contents()
            for key, field in reader.fields.items()
            if not key.startswith("GGUF.")
        }


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise DataError(f"{path} is damaged: {error}. Make it again: coach export") from None
