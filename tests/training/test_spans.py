import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from training.architecture import build_tokenizer
from training.conversation import completion_text, parse
from training.spans import Spans, spans

END = "<|im_end|>"


def _words(*tokens, decoder=None):
    """A tokenizer whose ids are the places of `tokens`, decoded by joining them; END comes last."""
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*tokens, END])}, unk_token=END))
    core.decoder = decoder or decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)


def _said(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


@pytest.fixture(scope="module")
def bytewise():
    """Every byte is a token of its own: tags take seven or eight, an accented letter two."""
    return build_tokenizer([], vocab_size=263)


@pytest.fixture(scope="module")
def wordwise():
    """Tags and the words below are one token each."""
    return build_tokenizer(["<think>\nthe red ball\n</think>\nball"] * 99, vocab_size=400)


def test_tags_of_one_token(wordwise):
    ids = _said(wordwise, "<think>\nthe red ball\n</think>\nball")
    # 0 <think> | 1 \n | 2 the | 3 " red" | 4 " ball" | 5 \n | 6 </think> | 7 \n | 8 ball | 9 end
    assert len(ids) == 10
    assert spans(wordwise, ids) == Spans(thought=range(2, 5), answer=range(7, 9), end=9)


def test_tags_of_many_tokens(bytewise):
    ids = _said(bytewise, "<think> ab c \n</think>\nd e")
    # 7 bytes of <think>, a space, a b _ c at 8..11, space and line break, </think> at 14..21, \n d _ e
    assert spans(bytewise, ids) == Spans(thought=range(8, 12), answer=range(22, 26), end=26)


def test_characters_of_many_tokens(bytewise):
    # é is two bytes, 😀 four: the thought é😀 is six tokens at 8..13, the answer \n 😀 five at 23..27.
    ids = _said(bytewise, "<think>\né😀\n</think>\n😀")
    assert spans(bytewise, ids) == Spans(thought=range(8, 14), answer=range(23, 28), end=28)


def test_tokens_that_straddle_a_tag():
    glued = _words("<thi", "nk>\n", "nk>re", "d", "d</", "</", "think", ">\n", ">ba", "ll")
    # "<thi|nk>re|d</|think|>ba|ll": thought (both edges) and answer (start) share a token with a tag.
    assert spans(glued, [0, 2, 4, 6, 8, 9, 10]) == Spans(thought=range(1, 3), answer=range(4, 6), end=6)
    # "<thi|nk>\n|d|</|think|>\n|ll": the shared tokens hold nothing but space beside the tag.
    assert spans(glued, [0, 1, 3, 5, 6, 7, 9, 10]) == Spans(thought=range(2, 3), answer=range(6, 7), end=7)


def test_a_decoder_that_eats_the_first_space():
    pieces = _words("▁<think>", "▁red", "▁</think>", "▁ball", decoder=decoders.Metaspace())
    # Decoded alone every token loses its leading space; the beginnings keep it.
    assert spans(pieces, [0, 1, 2, 3, 4]) == Spans(thought=range(1, 2), answer=range(3, 4), end=4)


def test_positions_follow_the_ids_and_not_the_text(bytewise, wordwise):
    # The same text in tokens that the tokenizer itself would never choose: one byte each.
    text = "<think>the red ball</think>ball"
    unusual = [wordwise.convert_tokens_to_ids(letter) for letter in bytewise.tokenize(text)]
    assert None not in unusual
    found = spans(wordwise, [*unusual, wordwise.eos_token_id])
    assert found == Spans(thought=range(7, 19), answer=range(27, 31), end=31)


def test_what_follows_the_end_is_not_looked_at(wordwise):
    ids = _said(wordwise, "<think>red</think>ball")
    after = _said(wordwise, "</think><think>") + [wordwise.pad_token_id] * 3
    assert spans(wordwise, ids + after) == spans(wordwise, ids)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ball", "no_thought"),
        ("", "no_thought"),
        ("<think>\n \n</think>\nball", "no_thought"),
        ("<think>red</think>\n ", "empty_answer"),
        ("<think>red</think>", "empty_answer"),
        ("<think>red", "format_invalid"),
        ("red</think>ball", "format_invalid"),
        ("so <think>red</think>ball", "format_invalid"),
        ("<think>red</think>ball</think>", "format_invalid"),
        ("<think><think>red</think>ball", "format_invalid"),
        ("</think>red<think>ball", "format_invalid"),
    ],
)
def test_reasons(bytewise, wordwise, text, reason):
    assert spans(bytewise, _said(bytewise, text)) == reason
    assert spans(wordwise, _said(wordwise, text)) == reason
    assert not parse(text).format_valid


def test_without_an_end_token_it_is_truncated(wordwise):
    ids = _said(wordwise, "<think>red</think>ball")
    assert spans(wordwise, ids[:-1]) == "truncated"
    assert spans(wordwise, []) == "truncated"


def test_an_image_token_of_the_policys_own(wordwise):
    picture = wordwise.convert_tokens_to_ids("<|image_pad|>")
    ids = _said(wordwise, "<think>red</think>ball")
    for spoilt in ([*ids[:2], picture, *ids[2:]], [*ids[:2], picture]):
        assert spans(wordwise, spoilt, picture) == "image_token_emitted"
    assert isinstance(spans(wordwise, [*ids, picture], picture), Spans)


def test_an_answer_alone_where_no_thought_is_needed(wordwise):
    ids = _said(wordwise, "red ball")
    assert spans(wordwise, ids, thought_needed=False) == Spans(range(0), range(len(ids) - 1), len(ids) - 1)
    assert spans(wordwise, _said(wordwise, "<think>red"), thought_needed=False) == "format_invalid"
    assert spans(wordwise, _said(wordwise, " "), thought_needed=False) == "empty_answer"


def test_every_well_formed_completion_has_spans_that_say_what_was_parsed(bytewise):
    for thought, answer in (("a b", "c"), ("  padded  ", "two words"), ("tags < and >", "é 😀 ,")):
        text = completion_text(thought, answer)
        ids = _said(bytewise, text)
        found = spans(bytewise, ids)
        assert parse(text).format_valid
        assert bytewise.decode([ids[i] for i in found.thought]) == parse(text).thought
        assert bytewise.decode([ids[i] for i in found.answer]).strip() == parse(text).answer
