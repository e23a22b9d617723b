from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coach_mlx import modelfile
from coach_mlx.config import Config
from coach_mlx.errors import DataError
from coach_mlx.modelfile import Modelfile, parse, to_text


def writable(text: str) -> bool:
    return '"""' not in text and all(one.isprintable() or one in "\n\t" for one in text)


LETTERS = st.text(alphabet=st.sampled_from("ab\"'{}<|>#\n\t \\🌱é"), min_size=1)
ANYTHING = st.text(min_size=1)
TEXTS = st.one_of(LETTERS, ANYTHING).filter(writable)
NUMBERS = st.tuples(st.just("num_ctx"), st.integers(1, 9999).map(str))
STOPS = st.tuples(
    st.just("stop"), TEXTS.filter(lambda text: "\n" not in text and not text.startswith('"'))
)


@given(
    st.none() | TEXTS, st.none() | TEXTS, st.lists(NUMBERS | STOPS, max_size=4), st.none() | TEXTS
)
@example('"', '""', [], '"\n""')
@example("a", "# no comment\nMESSAGE user x", [("stop", "a b")], None)
def test_what_is_written_is_read_back(
    template: str | None, system: str | None, parameters: list[Any], licence: str | None
) -> None:
    written = Modelfile("./a.gguf", template, system, tuple(parameters), licence, "./b.gguf")
    assert parse(to_text(written)) == written


def test_what_the_export_writes_is_read_back(tokenizer: Any) -> None:
    found = parse(modelfile.render(Config(), tokenizer, 'You say "yes".\n', "./c.gguf", 4096))
    assert (found.weights, found.system) == ("./c.gguf", 'You say "yes".\n')
    assert found.template is not None
    assert found.options() == {
        "num_ctx": 4096,
        "num_predict": 320,
        "temperature": 0.7,
        "top_p": 0.9,
        "repeat_penalty": 1.05,
        "stop": ["<|im_end|>"],
    }


def test_a_person_may_write_it_otherwise() -> None:
    text = (
        "\ufeff# mine\r\n\r\n  from   ./c.gguf\r\nsystem Be brief.\r\n"
        'parameter stop "a b"\r\nPARAMETER  stop\tc\nPARAMETER use_mmap False\n'
        'Template "{{ .Prompt }}\n"'
    )
    found = parse(text)
    assert (found.weights, found.system, found.template) == (
        "./c.gguf",
        "Be brief.",
        "{{ .Prompt }}\n",
    )
    assert found.options() == {"stop": ["a b", "c"], "use_mmap": False}
    assert found.license is None


def test_what_would_be_lost_is_refused_by_name_all_at_once() -> None:
    text = (
        'MESSAGE user """Hello\nthere"""\nRENDERER x\nNONSENSE y\nSYSTEM a\nSYSTEM b\n'
        "PARAMETER temprature 1\nPARAMETER zzz 1\n"
    )
    with pytest.raises(DataError) as error:
        parse(text)
    said = str(error.value)
    assert "line 1: MESSAGE. The coach is trained on talks that begin" in said
    assert "line 3: RENDERER. The text must be the TEMPLATE's" in said
    assert "line 4: NONSENSE. Take it out." in said
    assert "line 6: a second SYSTEM" in said
    assert "line 7: Ollama knows no parameter 'temprature'; did you mean temperature?" in said
    assert "line 8: Ollama knows no parameter 'zzz'. Take it out." in said
    assert "there is no FROM" in said


def test_quotation_marks_that_are_never_closed_are_named() -> None:
    with pytest.raises(DataError, match="line 2: the quotation marks after SYSTEM are never"):
        parse('FROM x\nSYSTEM """Hello\nFROM y\n')


def test_values_that_are_none_are_all_named() -> None:
    file = Modelfile("x", parameters=(("num_ctx", "many"), ("top_p", "x"), ("use_mmap", "maybe")))
    with pytest.raises(DataError) as error:
        file.options()
    assert str(error.value).count("PARAMETER") == 3


@pytest.mark.parametrize(
    ("text", "why"), [('a """ b', 'three|holds """'), ("👩\u200d👧", r"U\+200D: invisible")]
)
def test_a_text_that_ollama_would_read_as_another_is_refused(text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        to_text(Modelfile("x", system=text))
