"""Each metric against its definition, and the mistakes that it refuses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp import metrics
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from tests.comparison import assert_close

LOGITS = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 4.0, 0.0, -math.inf]])


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def test_each_metric_is_its_definition() -> None:
    rows = [softmax(row) for row in LOGITS.tolist()]
    answers, wrong = [3, 0], [1, 2]
    probabilities = torch.tensor([rows[0][3], rows[1][0]])
    assert metrics.logit_diff(answers, wrong)(LOGITS).tolist() == [2.0, 4.0]
    assert metrics.logit(answers)(LOGITS).tolist() == [3.0, 4.0]
    assert_close(metrics.prob(answers)(LOGITS), probabilities)
    assert_close(metrics.logprob(answers)(LOGITS), probabilities.log())
    other = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor(
        [sum(0.25 * math.log(0.25 / p) for p in softmax(LOGITS[0].tolist())), math.inf]
    )
    divergence = metrics.kl_divergence(other)(LOGITS)
    assert_close(divergence[0], expected[0])
    assert divergence[1] == expected[1]


@given(seed=st.integers(0, 10**6))
def test_a_divergence_is_positive_and_zero_only_between_equals(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    run, reference = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    assert (metrics.kl_divergence(reference)(run) > 0).all()
    shifted = reference + 7  # logits are known up to a constant
    assert metrics.kl_divergence(reference)(shifted).abs().max() < 1e-12


def test_a_metric_states_its_unit_and_what_it_reads() -> None:
    difference = metrics.logit_diff([3, 0], 1)
    assert (difference.name, difference.unit) == ("logit_diff", "logits")
    assert difference.vocab_ids.tolist() == [[3, 1], [0, 1]]
    read = LOGITS.gather(1, difference.vocab_ids)
    assert torch.equal(difference.of_read(read[:, None]), difference(LOGITS))
    assert metrics.logit(2).vocab_ids.tolist() == [[2]]
    for metric, unit in (
        (metrics.logprob(3), "nats"),
        (metrics.prob(3), "probability"),
        (metrics.kl_divergence(LOGITS), "nats"),
    ):
        assert metric.vocab_ids is None
        assert metric.unit == unit


@pytest.mark.parametrize("answers", [3, [3, 3], torch.tensor([3, 3]), torch.tensor(3)])
def test_one_answer_serves_all_examples(answers: object) -> None:
    assert metrics.logit(answers)(LOGITS[[0, 0]]).tolist() == [3.0, 3.0]
    assert metrics.logit_diff(answers, 1)(LOGITS[[0, 0]]).tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [("last", [7, 7]), (2, [2, 2]), (-3, [5, 5]), ([1, 6], [1, 6]), (torch.tensor([0, 7]), [0, 7])],
)
def test_a_metric_reads_the_positions_it_names(
    random_gpt2: HookedGPT2, positions: object, expected: list[int]
) -> None:
    tokens = torch.arange(2, 18).reshape(2, 8)
    logits = random_gpt2(tokens)
    rows = logits[torch.arange(2), torch.tensor(expected)]
    for metric in (
        metrics.logit_diff([5, 6], [9, 10], positions=positions),
        metrics.logprob(4, positions=positions),
        metrics.prob(4, positions=positions),
        metrics.logit(4, positions=positions),
        metrics.kl_divergence(rows.roll(1), positions=positions),
    ):
        assert_close(metric(logits), metric(rows))
        assert_close(metric(random_gpt2(tokens, positions=metric.positions)), metric(rows))


def test_the_last_position_of_padded_prompts_is_their_last_token(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit_diff(5, 9)
    texts = ["The cat is black.", "I love"]
    together = metric(random_gpt2(texts, positions=metric.positions))
    alone = torch.cat([metric(random_gpt2(text)) for text in texts])
    assert_close(together, alone)


def test_half_precision_is_judged_in_float32() -> None:
    logits = torch.tensor([[100.0, 99.5, 3.0]], dtype=torch.bfloat16)
    assert metrics.logprob(0)(logits).dtype == torch.float32
    assert_close(metrics.logprob(0)(logits), logits.float().log_softmax(-1)[:, 0])
    assert metrics.logprob(0)(logits.double()).dtype == torch.float64


def test_a_metric_has_gradients_of_the_run_and_not_of_its_reference() -> None:
    run, reference = LOGITS[:1].clone().requires_grad_(), LOGITS[:1].clone().requires_grad_()
    metrics.kl_divergence(reference)(run).sum().backward()
    assert reference.grad is None
    assert_close(run.grad, torch.zeros(1, 4))
    run.grad = None
    metrics.logit_diff(3, 1)(run).sum().backward()
    assert run.grad.tolist() == [[0.0, -1.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 1], [2, 1]), r"the same token in examples \[1\]"),
        (([3, 1], [2, 0, 0]), "2 answers and 3 wrong answers"),
        (([], 1), "answers must be token ids, one per example; got"),
        ((3, -1), "wrong must be token ids"),
    ],
)
def test_answers_that_cannot_be_compared_are_an_error(arguments: tuple, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        metrics.logit_diff(*arguments)


@pytest.mark.parametrize("kind", [metrics.logit, metrics.prob, metrics.logprob])
def test_answers_that_do_not_fit_the_run_are_an_error(kind: object) -> None:
    with pytest.raises(PromptError, match="answers for 3 examples, not 2"):
        kind([1, 2, 3])(LOGITS)
    with pytest.raises(PromptError, match="reads token 4; the logits have 4"):
        kind(4)(LOGITS)
    whole = LOGITS[:, None].expand(-1, 5, -1)
    with pytest.raises(PromptError, match="positions for 3 examples, not 2"):
        kind(1, positions=[0, 1, 0])(whole)
    with pytest.raises(PromptError, match=r"reads positions \[4, 5\]; the logits have 5"):
        kind(1, positions=[4, 5])(whole)


def test_a_reference_of_another_shape_is_an_error() -> None:
    with pytest.raises(PromptError, match=r"logits of shape \[2, 3\]; these have \[2, 4\]"):
        metrics.kl_divergence(LOGITS[:, :3])(LOGITS)
    with pytest.raises(PromptError, match="answers for 3 examples, not 2"):
        metrics.kl_divergence(LOGITS[[0, 0, 0]])(LOGITS)


def test_examples_of_a_metric_can_be_chosen_and_repeated(random_gpt2: HookedGPT2) -> None:
    tokens = torch.arange(2, 26).reshape(3, 8)
    logits, index = random_gpt2(tokens), torch.tensor([2, 0, 2])
    batch = random_gpt2.as_batch(tokens)
    for metric in (
        metrics.logit_diff([5, 6, 7], [9, 10, 11], positions=[1, 2, 3]),
        metrics.prob([5, 6, 7]),
        metrics.logprob(4),
        metrics.kl_divergence(logits[:, 0]),
        metrics.next_token_loss(batch),
    ):
        assert_close(metric.of_examples(index)(logits[index]), metric(logits)[index])


def test_the_loss_is_the_models_own(random_gpt2: HookedGPT2) -> None:
    texts = ["The cat is black.", "I love"]
    batch = random_gpt2.as_batch(texts)
    loss = metrics.next_token_loss(batch)(random_gpt2(batch))
    assert_close(loss, torch.stack([random_gpt2(text, "loss") for text in texts]))
    with pytest.raises(PromptError, match="at least two in each prompt"):
        metrics.next_token_loss(random_gpt2.as_batch([[5]]))
