"""Taking completions apart, and putting conversations together."""

import pytest

from training.conversation import Parsed, completion_text, messages, parse


@pytest.mark.parametrize(
    ("completion", "wanted"),
    [
        ("<think>\nI see a car.\n</think>\ncar", Parsed("I see a car.", "car", True)),
        ("  <think>a</think> b c \n", Parsed("a", "b c", True)),
        ("car", Parsed(None, "car", False)),
        ("", Parsed(None, None, False)),
        ("<think></think>car", Parsed(None, "car", False)),  # a thought of nothing
        ("<think>a</think>", Parsed(None, None, False)),  # no answer
        ("<think>a", Parsed(None, None, False)),  # cut short
        ("a</think>b", Parsed(None, "b", False)),
        ("<think>a<think>b</think>c", Parsed(None, "c", False)),  # two openings
        ("x<think>a</think>b", Parsed(None, "b", False)),  # talk before the thought
        ("<think>a</think>b</think>c", Parsed(None, "c", False)),
    ],
)
def test_parse(completion: str, wanted: Parsed) -> None:
    assert parse(completion) == wanted


def test_what_is_written_is_read_back() -> None:
    assert parse(completion_text("The bell is blue.", "blue")) == Parsed("The bell is blue.", "blue", True)
    assert completion_text(None, "blue") == "blue"


def test_the_picture_comes_before_the_words() -> None:
    system, user = messages("Where?", "Look.")
    assert system == {"role": "system", "content": [{"type": "text", "text": "Look."}]}
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert len(messages("Where?", "")) == 1
