"""Prompt sets: answers that are tokens, pairs that align, roles that point at the right words."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

import interp
from interp import prompts
from interp.errors import PromptError, TokenizerError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import END_OF_TEXT, Tokenizer
from interp.prompts import PromptPair, PromptPairs, templates
from interp.prompts.drawing import checked
from interp.tiny.language import is_held_out
from interp.tiny.lexicon import LIST_OPENINGS, LIST_WORDS, WISHES, WORDS

N = 40
WHOLE_YEARS = [f" 17{pair}" for pair in templates.DIGIT_PAIRS[40:60]]
"""Single tokens of the English tokenizer, as recent years are of GPT-2's."""
STUDIES = {
    "ioi": prompts.ioi,
    "ioi, name swap": lambda model, n, seed=0: prompts.ioi(
        model, n, seed=seed, corruption="name_swap"
    ),
    "one colour": prompts.colour_binding,
    "two colours": lambda model, n, seed=0: prompts.colour_binding(model, n, seed=seed, n_pairs=2),
    "induction": prompts.induction,
    "greater-than": prompts.greater_than,
    "pronoun": prompts.gendered_pronoun,
}
EMBEDDED_STUDIES = {name: make for name, make in STUDIES.items() if name != "pronoun"}


@pytest.fixture(scope="module")
def embedded() -> HookedGPT2:
    return interp.load()


@pytest.fixture(scope="module")
def english() -> HookedGPT2:
    """A random model whose tokenizer, like GPT-2's, has common words and halves of years."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    known = (*templates.WOMEN, *templates.MEN, *templates.NOUNS, *LIST_WORDS, *WISHES, "she", "he")
    texts = [" 17"] * 900 + [f" {word}" for word in known if word != "purple"] * 3
    texts += [*templates.DIGIT_PAIRS, *WHOLE_YEARS] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    sizes = {"n_layers": 1, "n_heads": 1, "d_model": 4, "d_mlp": 4, "n_ctx": 128}
    cfg = ModelConfig(**sizes, d_vocab=backend.get_vocab_size(), model_name="english")
    return HookedGPT2(cfg, Tokenizer(backend))


@pytest.fixture(params=("embedded", "english"))
def model(request: pytest.FixtureRequest) -> HookedGPT2:
    return request.getfixturevalue(request.param)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def changed_words(example: PromptPair) -> list[tuple[str, str]]:
    rows = zip(words(example.clean), words(example.corrupted), strict=True)
    return [(one, other) for one, other in rows if one != other]


def people(text: str) -> list[str]:
    names = {*WORDS["names"], *templates.WOMEN, *templates.MEN}
    return [word for word in words(text) if word in names]


def tokens_at(model: HookedGPT2, pairs: PromptPairs, role: str) -> list[str]:
    positions = pairs.roles[role].tolist()
    return [model.to_str_tokens(text)[p] for text, p in zip(pairs.clean, positions, strict=True)]


# Any set


@pytest.mark.parametrize("study", EMBEDDED_STUDIES.values(), ids=EMBEDDED_STUDIES)
def test_the_embedded_model_answers_and_corruption_takes_the_answer_away(embedded, study):
    pairs = study(embedded, N)
    metric = pairs.metric(embedded)
    clean, corrupted = (
        metric(embedded(texts, positions="last")) for texts in (pairs.clean, pairs.corrupted)
    )
    assert float((clean > 0).float().mean()) > 0.95
    assert float(corrupted.mean()) < 0.4 * float(clean.mean())
    assert prompts.unknown_words(embedded, pairs.clean + pairs.corrupted) == ()


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_equal_seeds_give_equal_sets_without_repetition(english, study):
    pairs = study(english, N)
    assert pairs == study(english, N, seed=0)
    assert pairs.clean != study(english, N, seed=1).clean
    assert len(set(pairs.clean)) == len(pairs) == N
    assert pairs.clean[:10] == study(english, 10).clean


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_pairs_align_and_their_last_position_is_the_end(english, study):
    for example in study(english, N):
        lengths = [len(english.to_str_tokens(text)) for text in (example.clean, example.corrupted)]
        assert lengths == [example.roles["END"] + 1] * 2


def test_a_slice_is_a_set_of_the_same_study(embedded):
    pairs = prompts.ioi(embedded, 8)
    some = pairs[2:6:2]
    assert some.name == "ioi"
    assert some.clean == [pairs.clean[2], pairs.clean[4]]
    assert some.groups == ["ABBA", "ABBA"]
    assert some.roles["IO"].tolist() == pairs.roles["IO"][[2, 4]].tolist()
    assert pairs[:0].roles == {}


def test_the_metric_compares_the_answers(embedded):
    pairs = prompts.ioi(embedded, 3)
    logits = torch.zeros(3, embedded.cfg.d_vocab)
    for row, (answer, wrong) in enumerate(zip(pairs.answers, pairs.wrong, strict=True)):
        logits[row, embedded.to_single_token(answer)] = 5.0
        logits[row, embedded.to_single_token(wrong)] = float(row)
    assert pairs.metric(embedded)(logits).tolist() == [5.0, 4.0, 3.0]


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_set_of_no_prompts_is_refused(english, study):
    with pytest.raises(PromptError, match="n is 0; ask for at least one"):
        study(english, 0)


def test_a_set_that_runs_out_of_prompts_says_how_many_there_are(english):
    pair = PromptPair("The war of", "The trial of", " Mary", " John", {"END": 3})
    with pytest.raises(PromptError, match="only 1 different war prompts to be found, not 2"):
        checked(english, "war", 2, [pair, None, pair])


def test_what_is_drawn_is_checked(english):
    unequal = PromptPair("The war of", "The war of Mary", " Mary", " John", {"END": 3})
    with pytest.raises(PromptError, match="Pair 0 has"):
        checked(english, "war", 1, [unequal])


def test_words_of_several_tokens_are_left_out(english):
    assert len(english.to_str_tokens(" purple", prepend_bos=False)) > 1
    for pairs in (prompts.colour_binding(english, 100), prompts.induction(english, 100)):
        assert " purple" not in {*pairs.answers, *pairs.wrong}


def test_a_model_without_tokenizer_has_no_prompts(random_gpt2):
    bare = HookedGPT2(random_gpt2.cfg)
    pair = PromptPair("The war of", "The trial of", " Mary", " John", {})
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        prompts.check(bare, PromptPairs("war", (pair,)))


# Indirect object


def test_every_template_occurs_in_both_orders(english):
    pairs = prompts.ioi(english, 30)
    frames = []
    for example in pairs:
        receiver, giver = example.answer.strip(), example.wrong.strip()
        in_order = [receiver, giver] if example.group == "ABBA" else [giver, receiver]
        assert people(example.clean) == [*in_order, giver]
        fitting = [frame for frame in templates.IOI_TEMPLATES if fits(frame, example.clean)]
        frames += [(*fitting, example.group)]
    assert len(set(frames)) == 30
    assert {len(frame) for frame in frames} == {2}
    assert set(prompts.ioi(english, 9, order="BABA").groups) == {"BABA"}


def fits(frame: str, text: str) -> bool:
    return re.fullmatch(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(frame)), text) is not None


def test_names_stand_where_the_roles_say(model):
    pairs = prompts.ioi(model, N)
    assert tokens_at(model, pairs, "IO") == pairs.answers
    assert tokens_at(model, pairs, "S1") == tokens_at(model, pairs, "S2") == pairs.wrong
    assert (pairs.roles["S1+1"] == pairs.roles["S1"] + 1).all()
    assert (pairs.roles["S1"] < pairs.roles["S2"]).all()


def test_abc_replaces_the_two_people_by_three_others(model):
    for example in prompts.ioi(model, N):
        before, after = people(example.clean), people(example.corrupted)
        assert len({*before, *after}) == 5
        assert changed_words(example) == list(zip(before, after, strict=True))


def test_a_name_swap_changes_who_gives(model):
    for example in prompts.ioi(model, N, corruption="name_swap"):
        assert changed_words(example) == [(example.wrong.strip(), example.answer.strip())]
        assert people(example.corrupted)[-1] == example.answer.strip()


def test_the_embedded_model_never_saw_the_two_people_together(embedded):
    for example in prompts.ioi(embedded, N):
        assert is_held_out(*sorted((example.answer.strip(), example.wrong.strip())))


def test_names_that_are_several_tokens_are_reported(random_gpt2):
    with pytest.raises(PromptError, match=r"At least 5 .* Not one token: .*Lucy, .* \.\.\."):
        prompts.ioi(random_gpt2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": "random"}, "corruption is 'random'; choose from 'abc', 'name_swap'"),
        ({"order": "AABB"}, "order is 'AABB'; choose from 'both', 'ABBA', 'BABA'"),
    ],
)
def test_unknown_kinds_of_ioi_are_refused(english, options, message):
    # The type checker of the tests would refuse it first.
    with pytest.raises(PromptError, match=message):
        prompts.ioi.__wrapped__(english, 3, **options)


# Colours


@pytest.mark.parametrize("n_pairs", [1, 2, 3])
def test_only_colours_are_corrupted(model, n_pairs):
    for example in prompts.colour_binding(model, 20, n_pairs=n_pairs):
        exchanged = (example.answer.strip(), example.wrong.strip())
        expected = [exchanged] if n_pairs == 1 else [exchanged, exchanged[::-1]]
        assert sorted(changed_words(example)) == sorted(expected)
        assert example.clean.endswith(" is")


def test_colours_and_things_stand_where_the_roles_say(model):
    pairs = prompts.colour_binding(model, N, n_pairs=2)
    assert tokens_at(model, pairs, "colour") == pairs.answers
    assert tokens_at(model, pairs, "other_colour") == pairs.wrong
    assert tokens_at(model, pairs, "thing") == tokens_at(model, pairs, "asked")
    others = tokens_at(model, pairs, "other_thing")
    assert {thing.strip() for thing in others} <= set(WORDS["things"])
    asked = tokens_at(model, pairs, "asked")
    assert not any(one == other for one, other in zip(asked, others, strict=True))
    assert (pairs.roles["other_colour"] < pairs.roles["other_thing"]).all()
    assert (pairs.roles["colour"] < pairs.roles["thing"]).all()
    assert (pairs.roles["thing"] < pairs.roles["asked"]).all()
    assert set(tokens_at(model, pairs, "END")) == {" is"}


@pytest.mark.parametrize("n_pairs", [2, 3])
def test_the_things_or_the_question_can_be_exchanged_instead_of_the_colours(model, n_pairs):
    pairs = prompts.colour_binding(model, N, n_pairs=n_pairs)
    things = prompts.things_exchanged(model, pairs)
    questions = prompts.question_exchanged(model, pairs)
    assert (things.clean, things.answers, things.wrong) == (pairs.clean, pairs.answers, pairs.wrong)
    asked, other = (tokens_at(model, pairs, role) for role in ("asked", "other_thing"))
    for thing, another, swapped, question in zip(asked, other, things, questions, strict=True):
        one, two = thing.strip(), another.strip()
        assert sorted(changed_words(swapped)) == sorted([(one, two), (two, one)])
        assert changed_words(question) == [(one, two)]
        mentioned = [word for word in words(question.corrupted) if word in WORDS["things"]]
        assert mentioned[-1] == two


def test_one_thing_cannot_be_exchanged(model):
    pairs = prompts.colour_binding(model, 2)
    with pytest.raises(PromptError, match=r"There is no other_thing in .*two or more pairs"):
        prompts.question_exchanged(model, pairs)


def test_the_same_sentence_about_other_words(model):
    pairs = prompts.colour_binding(model, N, n_pairs=2)
    others = prompts.other_words(model, pairs)
    for example in others:
        for kind in ("colours", "things"):
            before, after = (
                [word for word in words(text) if word in WORDS[kind]]
                for text in (example.clean, example.corrupted)
            )
            assert len(before) == len(after) >= 2
            several = {w for w in before if len(model.to_str_tokens(f" {w}", False)) > 1}
            assert {*before} & {*after} == several
            assert len({*before}) == len({*after})
        frame = [
            {*change} <= {*WORDS["colours"], *WORDS["things"]} for change in changed_words(example)
        ]
        assert all(frame)
    assert prompts.other_words(model, pairs) == others
    assert prompts.other_words(model, pairs, seed=1) != others


@pytest.mark.parametrize("n_pairs", [1, 2])
def test_redrawn_words_stand_where_the_old_ones_stood(model, n_pairs):
    pairs = prompts.colour_binding(model, N, n_pairs=n_pairs)
    redrawn = prompts.words_redrawn(model, pairs)
    for old, new in zip(pairs, redrawn, strict=True):
        tokens = model.to_str_tokens(new.clean)
        assert new.roles == old.roles
        assert tokens[new.roles["colour"]] == new.answer
        assert tokens[new.roles["thing"]] == tokens[new.roles["asked"]]
        exchange = {new.answer: new.wrong, new.wrong: new.answer}
        corrupted = [exchange.get(token, token) for token in tokens]
        assert model.to_str_tokens(new.corrupted) == corrupted
    assert prompts.words_redrawn(model, pairs) == redrawn
    assert prompts.words_redrawn(model, pairs, seed=1) != redrawn


def test_of_redrawn_words_a_thing_does_not_tell_its_colour(embedded):
    def is_new(example):
        thing = embedded.to_str_tokens(example.clean)[example.roles["thing"]]
        return is_held_out(example.answer.strip(), thing.strip())

    pairs = prompts.colour_binding(embedded, 200)
    assert all(map(is_new, pairs))
    share = sum(map(is_new, prompts.words_redrawn(embedded, pairs))) / 200
    assert 0.02 < share < 0.2


def test_more_colours_than_the_language_has_are_refused(embedded):
    with pytest.raises(PromptError, match="n_pairs is 4; there are prompts with 1 to 3 pairs"):
        prompts.colour_binding(embedded, 3, n_pairs=4)


# Induction


@pytest.mark.parametrize("n_words", [2, 8, 16])
def test_a_list_is_repeated_up_to_its_last_word(model, n_words):
    pairs = prompts.induction(model, 20, n_words=n_words)
    for example in pairs:
        listed = example.clean.removeprefix(LIST_OPENINGS[0]).split()
        assert listed[:n_words] == [*listed[n_words:], example.answer.strip()]
        assert len(set(listed)) == n_words
        assert changed_words(example) == [(example.answer.strip(), example.wrong.strip())]
    assert len(pairs.roles["END"].unique()) == 1
    assert tokens_at(model, pairs, "answer") == pairs.answers
    assert tokens_at(model, pairs, "previous") == tokens_at(model, pairs, "END")
    assert (pairs.roles["previous"] + 1 == pairs.roles["answer"]).all()


@pytest.mark.parametrize("n_words", [1, 17])
def test_lists_of_another_length_are_refused(embedded, n_words):
    with pytest.raises(PromptError, match=f"n_words is {n_words}; lists have 2 to 16"):
        prompts.induction(embedded, 3, n_words=n_words)


# Years


def test_the_start_lies_between_the_wrong_and_the_right_year(model):
    pairs = prompts.greater_than(model, N)
    assert all(digits.isdigit() for digits in tokens_at(model, pairs, "YY"))
    for example, start in zip(pairs, tokens_at(model, pairs, "YY"), strict=True):
        assert example.wrong < start < example.answer
        ((before, after),) = changed_words(example)
        assert before[2:] == start
        assert after == before[:2] + "01"
        assert words(example.clean)[-1] == before[:2]


def test_years_that_are_one_token_are_not_used(english):
    assert all(english.to_single_token(year) for year in WHOLE_YEARS)
    years = {year for text in prompts.greater_than(english, 200).clean for year in words(text)}
    assert {"1739", "1760"} < years
    assert not {year.strip() for year in WHOLE_YEARS} & years


def test_a_tokenizer_without_such_years_is_told_so(random_gpt2):
    with pytest.raises(PromptError, match=r"the century and two digits; \" 1732\" is .*\|.* here"):
        prompts.greater_than(random_gpt2, 3)


def test_year_prob_diff_counts_later_years_against_the_others(embedded):
    pairs = PromptPairs(
        "greater_than",
        tuple(PromptPair(f"From 17{start} to 17", "", "", "", {}) for start in ("32", "33")),
    )
    logits = torch.full((2, embedded.cfg.d_vocab), -torch.inf)
    for digits, probability in (("33", 0.5), ("32", 0.2), ("01", 0.1), (" cat", 0.2)):
        logits[:, embedded.to_single_token(digits)] = torch.tensor(probability).log()
    metric = prompts.year_prob_diff(embedded, pairs)
    assert metric(logits).tolist() == pytest.approx([0.5 - 0.3, -0.8])
    assert metric.unit == "probability"


def test_the_embedded_model_expects_later_years(embedded):
    pairs = prompts.greater_than(embedded, N)
    metric = prompts.year_prob_diff(embedded, pairs)
    assert float(metric(embedded(pairs.clean, positions="last")).mean()) > 0.7


# Pronouns


def test_the_pronoun_belongs_to_the_name(english):
    pairs = prompts.gendered_pronoun(english, N)
    assert Counter(pairs.groups) == {"she": N / 2, "he": N / 2}
    for example, name in zip(pairs, tokens_at(english, pairs, "name"), strict=True):
        own, other = (templates.WOMEN, templates.MEN)[:: 1 if example.group == "she" else -1]
        assert example.answer.strip() == example.group
        assert example.wrong.strip() == {"she": "he", "he": "she"}[example.group]
        ((before, after),) = changed_words(example)
        assert before == name.strip()
        assert before in own
        assert after in other


def test_the_embedded_model_has_no_pronouns(embedded):
    with pytest.raises(PromptError, match="has no pronouns; load another model"):
        prompts.gendered_pronoun(embedded, 3)


# The check

GOOD = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupted": "When Mary and John went to the store, Mary gave a drink to",
    "answer": " Mary",
    "wrong": " John",
}


def one_pair(**changes: str) -> PromptPairs:
    return PromptPairs("own", (PromptPair(**(GOOD | changes), roles={}),))


def test_a_good_pair_passes(embedded, random_gpt2):
    prompts.check(embedded, one_pair())
    prompts.check(random_gpt2, one_pair(answer=",", wrong="."))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": " Mary John"}, r"Example 0: ' Mary John' is 2 tokens .*, not one"),
        ({"wrong": " Xu"}, r"Example 0: ' Xu' is 3 tokens"),
        ({"wrong": " Mary"}, "' Mary' is both the answer and the wrong answer"),
        ({"answer": "Mary"}, "'Mary' would be glued to the prompt's last word; write ' Mary'"),
        ({"clean": GOOD["clean"] + " "}, "The clean prompt ends with a space"),
        ({"corrupted": GOOD["corrupted"] + "\n"}, "The corrupted prompt ends with a space"),
        ({"clean": "Zebras saw Mary and"}, "Example 0: The embedded model does not know 'Zebras'"),
        ({"clean": "Mary gave a drink to"}, r"Pair 0 has 6 clean and 15 corrupted.*\n.*diverge"),
        ({"corrupted": GOOD["clean"]}, "Pair 0 does not differ"),
    ],
)
def test_a_pair_that_would_measure_something_else_is_refused(embedded, changes, message):
    with pytest.raises(PromptError, match=message):
        prompts.check(embedded, one_pair(**changes))


def test_many_problems_are_counted(embedded):
    pairs = PromptPairs("own", one_pair(answer=" Xu").examples * 7)
    with pytest.raises(PromptError, match=r"Example 4: .*\n\.\.\. and 2 more") as error:
        prompts.check(embedded, pairs)
    assert "Example 5" not in str(error.value)


def test_an_empty_set_is_refused(embedded):
    with pytest.raises(PromptError, match="'own' has no examples"):
        prompts.check(embedded, PromptPairs("own", ()))


def test_words_outside_the_embedded_language_are_named_once(embedded, english):
    texts = ["The zebra is black.", "Anna and Zoë saw the zebra in 1732, and wept."]
    assert prompts.unknown_words(embedded, texts) == ("zebra", "Zoë", "wept")
    assert prompts.unknown_words(english, texts) == ()


# Files

HEADER = "clean,corrupted,answer,wrong"
ROW = ",".join(f'"{cell}"' for cell in GOOD.values())


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_and_json_lines_give_the_same_pairs(embedded, tmp_path):
    table = f"{HEADER},group,note\r\n{ROW},ABBA,mine\r\n\r\n{ROW},,\r\n"
    lines = [GOOD | {"group": "ABBA", "note": 3}, GOOD]
    paths = [
        written(tmp_path, "own.csv", b"\xef\xbb\xbf" + table.encode()),
        written(tmp_path, "own.jsonl", "\n\n".join(map(json.dumps, lines)) + "\n"),
    ]
    first, second = (prompts.from_file(embedded, path) for path in paths)
    assert first == second
    assert first.name == "own"
    assert first.groups == ["ABBA", ""]
    assert [first.clean[1], first.corrupted[1], first.answers[1], first.wrong[1]] == [
        *GOOD.values()
    ]
    assert tokens_at(embedded, first, "END") == [" to", " to"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.txt", ROW, "own.txt: prompts are read from .csv and .jsonl files only"),
        ("own.csv", HEADER, "own.csv holds no prompts"),
        ("own.csv", f"clean,answer\n{ROW}", "line 2: corrupted, wrong is missing.*clean, answer"),
        ("own.csv", f"{HEADER}\n{ROW}\n,,,", "line 3: clean, corrupted, answer, wrong must be"),
        ("own.csv", f"{HEADER}\n{ROW}\na,b", "line 3: answer, wrong must be text"),
        ("own.csv", f"{HEADER}\n{ROW},b", "line 2: more cells than columns"),
        ("own.csv", f'{HEADER}\n"a"b,c', "line 2: not CSV"),
        ("own.csv", f"{HEADER}\n".encode() + b"caf\xe9", "line 2: not UTF-8. Save the file as"),
        ("own.jsonl", "\n{", "own.jsonl, line 2: not JSON"),
        ("own.jsonl", "[" * 100_000, "own.jsonl, line 1: not JSON"),
        ("own.jsonl", "[1]", r"line 1: expected an object, got \[1\]"),
        ("own.jsonl", '{"clean": "a"}', "line 1: corrupted, answer, wrong is missing"),
        ("own.jsonl", json.dumps(GOOD | {"wrong": 17}), "line 1: wrong must be text"),
        ("own.jsonl", json.dumps(GOOD | {"clean": "to " * 999}), "line 1: The text has .* tokens"),
        ("own.jsonl", json.dumps(GOOD | {"answer": " Xu"}), "Example 0: ' Xu' is 3 tokens"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(embedded, tmp_path, name, content, message):
    with pytest.raises(PromptError, match=message):
        prompts.from_file(embedded, written(tmp_path, name, content))


def test_a_missing_file_is_named(embedded, tmp_path):
    with pytest.raises(PromptError, match=r"There is no file .*absent\.csv"):
        prompts.from_file(embedded, tmp_path / "absent.csv")


def test_a_colour_of_ones_own_text_is_swapped(embedded):
    text = "I love the color black, and a black cat that is blackish. The cat is"
    pair = prompts.colour_swapped(embedded, text, instead="red")
    assert pair.corrupted == text.replace(" black,", " red,").replace("a black", "a red")
    assert (pair.answer, pair.wrong) == (" black", " red")
    pieces = embedded.to_str_tokens(text)
    assert pieces[pair.roles["colour"]] == " black"
    assert pair.roles["END"] == len(pieces) - 1


def test_a_colour_that_the_text_has_changes_places(embedded):
    text = "I have a black cat and a red car. The car is"
    pair = prompts.colour_swapped(embedded, text, colour="red", instead="black")
    assert pair.corrupted == "I have a red cat and a black car. The car is"
    assert pair.answer == " red"


def test_by_default_the_first_colour_becomes_one_that_is_not_there(embedded):
    pair = prompts.colour_swapped(embedded, "I have a black cat and a red car. The car is")
    assert pair.answer == " black"
    assert pair.wrong.strip() not in pair.clean
    assert pair.wrong.strip() in pair.corrupted


@pytest.mark.parametrize(
    ("text", "asked", "message"),
    [
        ("The cat is here", {}, "no colour that is one token"),
        ("The black cat", {"colour": "red"}, "no colour 'red' that is one token"),
        ("The black cat", {"instead": "cat"}, "'cat' is no other colour"),
        ("The black cat", {"instead": "black"}, "'black' is no other colour"),
    ],
)
def test_a_text_without_the_colour_says_so(embedded, text, asked, message):
    with pytest.raises(PromptError, match=message):
        prompts.colour_swapped(embedded, text, **asked)
