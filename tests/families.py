"""Five families of models as their makers format talks: real vocabularies, random weights.

The vocabularies come out of packages: `llama-models`, `mistral-common`, `dashscope`, and for Gemma,
which has none, the SmolLM2 GGUF. The templates are written from the documented formats, with the
quirks that the makers' own have. `written` says by hand what a conversation looks like, and `spell`
splits text with tiktoken or SentencePiece, so both are independent of what is tested.
"""

import base64
import functools
import importlib.util
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from conftest import make_tiny

Chat = list[dict[str, str]]


class Stretch(NamedTuple):
    """Text that is split by itself, or one control token; `spoken` where a reply must learn it."""

    text: str
    spoken: bool = False


class Family(NamedTuple):
    """`control`: the special tokens and their ids. `written`: a conversation by hand."""

    name: str
    template: str
    control: dict[str, int]
    begin: str
    end: str
    build: Callable[[], Any]
    spell: Callable[[str], list[int]]
    written: Callable[[Chat], list[Stretch]]
    facts: dict[str, Any]


# --- vocabularies

LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPLIT = LLAMA_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def package_file(package: str, *inside: str) -> Path:
    """Found without importing the package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]).joinpath(*inside)


def read_ranks(path: Path) -> dict[bytes, int]:
    """A file in tiktoken's format: a token in base64 and its rank on each line."""
    pairs = (line.split() for line in path.read_bytes().splitlines() if line.strip())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def cuts(token: Any, known: Container[Any]) -> list[tuple[Any, Any]]:
    """Every pair of tokens that a token can be made of."""
    pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
    return [(a, b) for a, b in pairs if a in known and b in known]


def merges_of(ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The pair that is left of each token when all earlier merges are done; every pair of a token
    that they do not lead to.
    """
    for token, rank in ranks.items():
        parts = [token[place : place + 1] for place in range(len(token))]
        while len(parts) > 2:
            found = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            place = found.index(min(found))
            if found[place] == rank:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]
        else:
            yield from cuts(token, ranks)


@functools.cache
def byte_letters() -> dict[int, str]:
    """The visible letter that stands for each byte in byte-level BPE."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in seen}
    hidden = (byte for byte in range(256) if byte not in letters)
    return letters | {byte: chr(256 + number) for number, byte in enumerate(hidden)}


@functools.cache
def byte_pairs(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    ranks, letters = read_ranks(path), byte_letters()
    shown = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [(shown[a], shown[b]) for a, b in merges_of(ranks)]
    return {shown[token]: rank for token, rank in ranks.items()}, merges


def byte_level(path: Path, split: str, composes: bool = False) -> Any:
    """`composes`: letters and accents that follow them become one character first."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    # A word that is a token is that token, even where no row of merges leads to it.
    bpe = models.BPE(*byte_pairs(path), ignore_merges=True)
    tokenizer = Tokenizer(bpe)
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@functools.cache
def tiktoken_speller(path: Path, split: str) -> Any:
    import tiktoken

    return tiktoken.Encoding(
        path.name, pat_str=split, mergeable_ranks=read_ranks(path), special_tokens={}
    )


@functools.cache
def sentencepiece_speller(path: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def sentencepiece_level(path: Path) -> Any:
    """SentencePiece's BPE merges the pair whose token has the best score."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    speller = sentencepiece_speller(path)
    vocabulary = {speller.id_to_piece(number): number for number in range(len(speller))}
    numbers = (n for n in vocabulary.values() if not (speller.is_control(n) or speller.is_byte(n)))
    best = sorted(numbers, key=speller.get_score, reverse=True)
    words = {speller.id_to_piece(number): number for number in best}
    merges = [pair for word in words for pair in cuts(word, words)]
    bpe = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def save_tokenizer(family: Family, folder: Path) -> Path:
    """tokenizer.json and tokenizer_config.json, as a folder of the hub has them."""
    from tokenizers import AddedToken, processors

    tokenizer = family.build()
    added = [
        AddedToken(token, special=token not in ("<think>", "</think>"), normalized=False)
        for token in sorted(family.control, key=lambda token: family.control[token])
    ]
    tokenizer.add_tokens(added)
    assert {token: tokenizer.token_to_id(token) for token in family.control} == family.control
    if family.begin:
        begin = (family.begin, family.control[family.begin])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.begin} $A", pair=f"{family.begin} $A $B", special_tokens=[begin]
        )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": family.template,
        "eos_token": family.end,
        **({"bos_token": family.begin} if family.begin else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder


def make_base(family: Family, folder: Path) -> Path:
    """A random model of the family with its vocabulary, in 32 bits."""
    import mlx.core as mx

    source = save_tokenizer(family, folder / "tokenizer")
    module = {"mistral": "llama"}.get(family.facts["model_type"], family.facts["model_type"])
    facts = {"hidden_size": 32, "eos_token_id": family.control[family.end], **family.facts}
    base = make_tiny(folder / "base", source, module, **facts)
    if module == "gemma3_text":
        # Its output head is the embedding where the file has none, as Google's files have none.
        path = base / "model.safetensors"
        weights = dict(mx.load(str(path)))
        weights.pop("lm_head.weight")
        mx.eval(weights)
        mx.save_safetensors(str(path), weights, metadata={"format": "mlx"})
    return base


# --- formats

ALTERNATE = (
    "{%- set spoken = messages[1:] if messages[0].role == 'system' else messages %}"
    "{%- for m in spoken %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('Roles must alternate user/assistant') }}{%- endif %}{%- endfor %}"
)

# Always a system turn with dates in it; words are trimmed.
LLAMA = """\
{{- bos_token }}
{%- set given = messages[0].role == 'system' %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}
{{- 'Today Date: ' + strftime_now('%d %b %Y') + '\n\n' }}
{{- (messages[0].content | trim if given else '') + '<|eot_id|>' }}
{%- for m in (messages[1:] if given else messages) %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# The system prompt stands before the last user's words, and only where they come last.
MISTRAL = (
    ALTERNATE
    + """\
{{- bos_token }}
{%- for m in spoken %}
{%- if m.role == 'user' and loop.last and messages[0].role == 'system' %}
{{- '[INST] ' + messages[0].content + '\n\n' + m.content + '[/INST]' }}
{%- elif m.role == 'user' %}{{- '[INST] ' + m.content + '[/INST]' }}
{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}
{%- endfor %}
"""
)

MISTRAL_V7 = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{- '[SYSTEM_PROMPT] ' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'user' %}{{- '[INST] ' + m.content + '[/INST]' }}
{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}
{%- endfor %}
"""

# A system prompt of its own where none is given.
QWEN2 = """\
{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""

# The turn after the last user's gets a thinking block; earlier ones lose theirs.
QWEN3 = """\
{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.asked = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role != 'assistant' %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- else %}
{%- set thought, said = '', m.content %}
{%- if '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}
{%- set said = said.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.asked %}{{- '<think>\n' + thought + '\n</think>\n\n' }}{%- endif %}
{{- said + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""

# The assistant is called model, and the system prompt goes into the first user's turn.
GEMMA3 = (
    ALTERNATE
    + """\
{{- bos_token }}
{%- set before = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{%- for m in spoken %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{{- (before if loop.first else '') + (m.content | trim) + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}
"""
)

# Gemma 2 knows no system role at all.
GEMMA2 = (
    "{%- if messages[0].role == 'system' %}{{- raise_exception('No system role') }}{%- endif %}"
)
GEMMA2 += GEMMA3


def written_llama(chat: Chat) -> list[Stretch]:
    given = chat[0]["role"] == "system"
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 01 Jan 2026\n\n"
    system = {"role": "system", "content": chat[0]["content"] if given else ""}
    found = [Stretch("<|begin_of_text|>")]
    for message in [system, *chat[given:]]:
        head = [Stretch("<|start_header_id|>"), Stretch(message["role"])]
        spoken = message["role"] == "assistant"
        dated = dates if message is system else ""
        found += [*head, Stretch("<|end_header_id|>")]
        # The line breaks are a token of their own only before a word.
        if spoken:
            found += [Stretch("\n\n"), Stretch(message["content"], True)]
        else:
            found.append(Stretch("\n\n" + dated + message["content"]))
        found.append(Stretch("<|eot_id|>", spoken))
    return found


def written_mistral(chat: Chat) -> list[Stretch]:
    found = [Stretch("<s>")]
    for message in folded(chat):
        if message["role"] == "assistant":
            found += [Stretch(" " + message["content"], True), Stretch("</s>", True)]
        else:
            found += [Stretch("[INST]"), Stretch(" " + message["content"]), Stretch("[/INST]")]
    return found


def written_mistral_v7(chat: Chat) -> list[Stretch]:
    if chat[0]["role"] != "system":
        return written_mistral(chat)
    system = [
        Stretch("[SYSTEM_PROMPT]"),
        Stretch(" " + chat[0]["content"]),
        Stretch("[/SYSTEM_PROMPT]"),
    ]
    return [Stretch("<s>"), *system, *written_mistral(chat[1:])[1:]]


def written_qwen3(chat: Chat) -> list[Stretch]:
    return [stretch for message in chat for stretch in turn("<|im_start|>", message, "<|im_end|>")]


def written_qwen2(chat: Chat) -> list[Stretch]:
    default = {"role": "system", "content": "You are a helpful assistant."}
    return written_qwen3(chat if chat[0]["role"] == "system" else [default, *chat])


def written_gemma(chat: Chat) -> list[Stretch]:
    found = [Stretch("<bos>")]
    for message in folded(chat):
        found += turn("<start_of_turn>", message, "<end_of_turn>", assistant="model")
    return found


def folded(chat: Chat) -> Chat:
    if chat[0]["role"] != "system":
        return chat
    return [{"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}, *chat[2:]]


def turn(
    start: str, message: dict[str, str], end: str, assistant: str = "assistant"
) -> list[Stretch]:
    if message["role"] == "assistant":
        words = [Stretch(f"{assistant}\n"), Stretch(message["content"], True)]
    else:
        words = [Stretch(f"{message['role']}\n{message['content']}")]
    return [Stretch(start), *words, Stretch(end, message["role"] == "assistant"), Stretch("\n")]


# --- the families

LLAMA_RANKS = package_file("llama_models", "llama3", "tokenizer.model")
QWEN_RANKS = package_file("dashscope", "resources", "qwen.tiktoken")
MISTRAL_DATA = package_file("mistral_common", "data")
MISTRAL_V3_MODEL = MISTRAL_DATA / "mistral_instruct_tokenizer_240323.model.v3"
MISTRAL_V7_MODEL = MISTRAL_DATA / "mistral_instruct_tokenizer_241114.model.v7"

LLAMA_CONTROL = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
]  # fmt: skip
QWEN_CONTROL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>",
    "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip
MISTRAL_V3_CONTROL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
MISTRAL_V7_CONTROL = {"[SYSTEM_PROMPT]": 16, "[/SYSTEM_PROMPT]": 17}
GEMMA_CONTROL = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]


def numbered(tokens: list[str], first: int) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens, first)}


def spell_llama(text: str) -> list[int]:
    return list(tiktoken_speller(LLAMA_RANKS, LLAMA_SPLIT).encode_ordinary(text))


def spell_qwen(text: str) -> list[int]:
    composed = unicodedata.normalize("NFC", text)
    return list(tiktoken_speller(QWEN_RANKS, QWEN_SPLIT).encode_ordinary(composed))


def spell_mistral(text: str) -> list[int]:
    """SentencePiece puts a blank before every text by itself."""
    assert text.startswith(" ")
    return list(sentencepiece_speller(MISTRAL_V3_MODEL).encode(text[1:]))


def smollm2_tokenizer() -> Any:
    """SmolLM2's vocabulary, for the family that no package carries one of."""
    import tempfile

    import mlx.core as mx
    from tokenizers import Tokenizer

    from coach_mlx import importer

    loaded: Any = mx.load(str(importer.packaged_gguf()), return_metadata=True)
    with tempfile.TemporaryDirectory() as folder:
        importer.write_tokenizer(loaded[1], Path(folder))
        return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


@functools.cache
def smollm2_speller() -> Any:
    tokenizer = smollm2_tokenizer()
    tokenizer.encode_special_tokens = True
    return tokenizer


def spell_smollm2(text: str) -> list[int]:
    return list(smollm2_speller().encode(text).ids)


FAMILIES = [
    Family(
        "llama",
        LLAMA,
        numbered(LLAMA_CONTROL, 128000),
        "<|begin_of_text|>",
        "<|eot_id|>",
        lambda: byte_level(LLAMA_RANKS, LLAMA_SPLIT),
        spell_llama,
        written_llama,
        {"model_type": "llama", "vocab_size": 128256},
    ),
    Family(
        "mistral",
        MISTRAL,
        numbered(MISTRAL_V3_CONTROL, 0),
        "<s>",
        "</s>",
        lambda: sentencepiece_level(MISTRAL_V3_MODEL),
        spell_mistral,
        written_mistral,
        {"model_type": "mistral", "vocab_size": 32768, "tie_word_embeddings": False},
    ),
    Family(
        "qwen2",
        QWEN2,
        numbered(QWEN_CONTROL[:3], 151643),
        "",
        "<|im_end|>",
        lambda: byte_level(QWEN_RANKS, QWEN_SPLIT, composes=True),
        spell_qwen,
        written_qwen2,
        {"model_type": "qwen2", "vocab_size": 151936, "head_dim": 8},
    ),
    Family(
        "qwen3",
        QWEN3,
        numbered(QWEN_CONTROL, 151643),
        "",
        "<|im_end|>",
        lambda: byte_level(QWEN_RANKS, QWEN_SPLIT, composes=True),
        spell_qwen,
        written_qwen3,
        {"model_type": "qwen3", "vocab_size": 151936},
    ),
    Family(
        "gemma3",
        GEMMA3,
        numbered(GEMMA_CONTROL, 49152),
        "<bos>",
        "<end_of_turn>",
        smollm2_tokenizer,
        spell_smollm2,
        written_gemma,
        {
            "model_type": "gemma3_text",
            "vocab_size": 49184,
            "query_pre_attn_scalar": 16,
            "sliding_window": 64,
            "sliding_window_pattern": 2,
        },
    ),
]
# The same models with another of their makers' formats.
VARIANTS = [
    FAMILIES[1]._replace(
        name="mistral-v7",
        template=MISTRAL_V7,
        control=numbered(MISTRAL_V3_CONTROL, 0) | MISTRAL_V7_CONTROL,
        build=lambda: sentencepiece_level(MISTRAL_V7_MODEL),
        written=written_mistral_v7,
    ),
    FAMILIES[4]._replace(name="gemma2", template=GEMMA2),
]


# --- Ollama


def go(template: str, chat: Chat) -> str:
    """What Ollama makes of a template that uses `range`, `if`, `else` and `end` only."""
    parts = re.split(r"{{\s*(.*?)\s*}}", template)
    head, body = parts[1], parts[2:]
    assert head.startswith("range ")
    depth, end = 1, 0
    for end in range(1, len(body), 2):
        depth += body[end].startswith("if ") - (body[end] == "end")
        if not depth:
            break
    loop, rest = body[:end], body[end + 1 :]
    assert len(rest) == 1
    return "".join(go_turn(loop, number, m) for number, m in enumerate(chat)) + rest[0]


def go_turn(parts: list[str], number: int, message: dict[str, str]) -> str:
    """Each open `if` as [a branch was taken, this branch is taken]."""
    text, branches = parts[0], []
    for action, following in zip(parts[1::2], parts[2::2], strict=True):
        words = action.split()
        if words[0] in ("if", "else"):
            taken = branches.pop()[0] if words[0] == "else" else False
            true = "eq" not in words or go_equal(words[words.index("eq") + 1 :], number, message)
            branches.append([taken or true, true and not taken])
        elif action == "end":
            branches.pop()
        elif action == ".Content" and all(branch[1] for branch in branches):
            text += message["content"]
        text += following if all(branch[1] for branch in branches) else ""
    return text


def go_equal(words: list[str], number: int, message: dict[str, str]) -> bool:
    field, value = words
    if field == "$number":
        return number == int(value)
    assert field == ".Role"
    return json.dumps(message["role"]) == value
