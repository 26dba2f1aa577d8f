"""Prompts in words: tokens, answers, roles and templates, with a tokenizer that is trained here."""

import pytest
import torch

import mechinterp as mi
from mechinterp.core import ConfigError
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import TEMPLATES, Prompts, check, from_dict, indirect_objects, templates


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level tokenizer that knows the templates' words, as it is loaded from a folder."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d{2}"), "isolated"), byte_level])
    made.decoder = decoders.ByteLevel()
    start, alphabet = ["<|start|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=start, initial_alphabet=alphabet)
    lists = (templates.FIRST_NAMES, templates.PLACES, templates.THINGS, templates.EVENTS)
    words = " ".join([*lists, templates.ARGUMENTS, templates.FUNCTIONS, "When and went to the gave a year"])
    made.train_from_iterator([f" {words}", "".join(f"{year:02d}" for year in range(100))] * 20, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|start|>").save_pretrained(folder)
    return AutoTokenizer.from_pretrained(str(folder))


TWO = dict(
    clean=("When Mary and John, John gave to", "When Tom and Kate, Tom gave to"),
    corrupted=("When Mary and John, Mary gave to", "When Tom and Kate, Kate gave to"),
    answers=(" Mary", " Kate"),
    wrong=(" John", " Tom"),
)


def test_tokens_answers_and_roles(tokenizer):
    task = Prompts(**TWO, tokenizer=tokenizer, bos=True, roles={"giver": ("John#2", "Tom#2"), "end": " to"})
    pair = task.pair(2, seed=3)
    start = tokenizer.bos_token_id
    for row in range(2):
        words = tokenizer.decode(pair.clean.inputs[row, 1:])
        number = TWO["clean"].index(words)
        assert (
            pair.clean.inputs[row, 0] == start
            and tokenizer.decode(pair.corrupted.inputs[row, 1:]) == (TWO["corrupted"][number])
        )
        assert tokenizer.decode(pair.clean.targets[row, -1:]) == TWO["answers"][number]
        assert tokenizer.decode(pair.clean.wrong[row, -1:]) == TWO["wrong"][number]
        giver = pair.clean.inputs[row, pair.clean.roles["giver"][row]]
        assert tokenizer.decode([giver]).strip() == ("John", "Tom")[number]
        assert pair.clean.roles["end"][row] == pair.clean.seq_len - 1
        assert pair.clean.scored[row].nonzero().tolist() == [[pair.clean.seq_len - 1]]
    assert task.tokens(pair.clean.inputs)[0][0] == "<|start|>"
    plain = Prompts(**TWO, tokenizer=tokenizer, bos=False)
    assert torch.equal(plain.pair(2, seed=3).clean.inputs, pair.clean.inputs[:, 1:])
    assert from_dict(task.to_dict()) == task


def test_each_prompt_comes_once_before_one_comes_twice(tokenizer):
    task = indirect_objects(tokenizer, 10)
    drawn = task.batch(10, seed=1).inputs
    assert len(drawn.unique(dim=0)) == len(set(task.clean)) and len(task.batch(25, seed=1)) == 25


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"answers": (" Mary",)}, "answers has 1 texts for 2 prompts"),
        ({"answers": (" John", " Kate")}, "prompt 0: ' John' is both the answer and the wrong one"),
        ({"answers": (" Mary Mary", " Kate")}, "an answer is one token: ' Mary Mary' are not"),
        ({"corrupted": ("When Mary and John, Mary gave a to", TWO["corrupted"][1])}, "such as corrupted prompt 0"),
        ({"roles": {"place": "store"}}, "role 'place': 'store' is not in the prompt"),
        ({"roles": {"giver": ("John#3", "Tom")}}, "'John#3' is not in the prompt"),
        ({"roles": {"giver": ("a", "b", "c")}}, "role 'giver' has 3 texts"),
        ({"tokenizer": "/nowhere/at/all"}, "no tokenizer '/nowhere/at/all'"),
        ({"clean": ()}, "clean"),
    ],
)
def test_what_cannot_be_asked_is_refused(tokenizer, changes, text):
    settings = dict(**TWO, tokenizer=tokenizer, bos=True) | changes
    with pytest.raises(ConfigError, match=text):
        Prompts(**settings).pair(2)


def test_a_tokenizer_without_a_start_or_a_name_is_refused(tokenizer):
    class Nameless:
        name_or_path = ""

    with pytest.raises(ConfigError, match="has no name to load it by"):
        Prompts(**TWO, tokenizer=Nameless(), bos=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tokenizer), "bos_token_id", None, raising=False)
        with pytest.raises(ConfigError, match="has no beginning-of-sequence token"):
            Prompts(**TWO, tokenizer=tokenizer, bos=True).pair(2)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_keep_the_contract_and_say_what_they_mean(tokenizer, name):
    task = TEMPLATES[name](tokenizer, 40, seed=2)
    offer = check(task, examples=12)
    assert "end" in offer.roles and task == TEMPLATES[name](tokenizer, 40, seed=2)
    for clean, corrupted, answer, wrong in zip(task.clean, task.corrupted, task.answers, task.wrong, strict=True):
        if name == "indirect-objects":
            assert clean.count(answer.strip()) == 1 and clean.count(wrong.strip()) == 2
            assert corrupted.count(answer.strip()) == 2 and corrupted.count(wrong.strip()) == 1
        elif name == "later-years":
            year, early = (int(text.split("17")[1][:2]) for text in (clean, corrupted))
            assert early < int(wrong) < year < int(answer)
        else:
            assert f",{answer})" in clean and f",{wrong})" in corrupted
    for role, where in task.pair(12).clean.roles.items():
        assert (where > 0).all(), role


def test_a_model_of_words_is_analysed(tokenizer):
    task = indirect_objects(tokenizer, 30)
    config = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=len(tokenizer), n_ctx=task.batch(1).seq_len)
    model, pair = Transformer(config).double(), task.pair(8)
    effects = mi.patch_nodes(model, pair, at="role")["effect"]
    assert list(effects["role"].values) == ["first_name", "second_name", "giver", "end"] and effects.notnull().all()
    # Names before the giver are the same on both sides, so nothing there can matter.
    assert float(abs(effects.sel(role=["first_name", "second_name"])).max()) < 1e-12
    assert mi.patch_edges(model, pair)["effect"].notnull().all()
