"""Rewards: each of one answer, by hand; what can't be read is never worth more than what can."""

import math

import pytest

from depthlm.errors import DepthLMError
from depthlm.training import rewards
from depthlm.training.rewards import REWARDS, Answer, read, reward_functions


def answer(value, truth=4.0, text="", tokens=5):
    return Answer(text or f"{value}", value, truth, tokens)


@pytest.mark.parametrize(
    ("name", "value", "worth"),
    [
        ("delta1", 4.0, 1),
        ("delta1", 4.99, 1),
        ("delta1", 5.0, 0),
        ("delta1", 3.21, 1),
        ("delta1", 3.2, 0),
        ("delta1", None, 0),
        ("negative_l1", 4.0, 0),
        ("negative_l1", 5.5, -1.5),
        ("negative_l1", 1.0, -3),
        ("negative_l1", 1000, -8),
        ("negative_l1", None, -8),
        ("negative_relative", 5.0, -0.25),
        ("negative_relative", 1000, -2),
        ("negative_relative", None, -2),
        ("log_ratio", 4.0, 1),
        ("log_ratio", 5.0, 0.5),
        ("log_ratio", 3.2, 0.5),
        ("log_ratio", 8.0, 1 / (1 + (math.log(2) / math.log(1.25)) ** 2)),
        ("log_ratio", None, 0),
    ],
)
def test_of_the_number(name, value, worth):
    assert REWARDS[name](answer(value)) == pytest.approx(worth)


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("3.20", 1),
        (" 3.2 m ", 1),
        ("3.2 m/s.", 1),
        ("The point is 6.40 m away. 6.40 / 2.0 = 3.20", 1),
        ("about 3.2 m", 0),
        ("3.2 m I think", 0),
        ("3.2 3.2", 0),
        ("<answer>3.2</answer>", 0),
    ],
)
def test_of_the_form(text, worth):
    assert rewards.format(read(text, 5, 3.0, "m/s" if "m/s" in text else "m")) == worth


def test_of_the_length():
    assert [rewards.length(answer(1.0, tokens=n)) for n in (1, 32, 160, 288, 10_000)] == [0, 0, -0.5, -1, -1]


@pytest.mark.parametrize("name", ["delta1", "negative_l1", "negative_relative", "log_ratio", "format"])
def test_nothing_readable_is_never_worth_more(name):
    for truth in (0.2, 3.0, 150.0):
        silent = REWARDS[name](read("I can't say.", 5, truth, "m"))
        assert all(REWARDS[name](answer(v, truth, text=f"{v} m")) >= silent for v in (0.01, truth, 3 * truth, 1e6))
        assert REWARDS[name](read("0", 5, truth, "m")) <= REWARDS[name](read(f"{truth:.2f}", 5, truth, "m"))


def test_in_trls_form():
    functions, weights = reward_functions({"negative_l1": 1.0, "format": 0.2})
    assert [f.__name__ for f in functions] == ["negative_l1", "format"] and weights == [1.0, 0.2]
    completions = [
        [{"role": "assistant", "content": "5.00"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "well, 250 cm"}]}],
    ]
    given = {"completions": completions, "completion_ids": [[1, 2], [3]], "truth": [4.0, 3.0], "unit": ["m", "m"]}
    assert functions[0](**given, prompts=None, kind=["x", "y"]) == pytest.approx([-1.0, -0.5])
    assert functions[1](**given) == [1, 0]


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ({"l1": 1.0}, "is not known"),
        ({"delta1": 0.0}, "have no weight"),
        ({"delta1": -1.0}, "has the weight -1"),
        ({"delta1": float("nan")}, "has the weight nan"),
    ],
)
def test_wrong_mixes(mix, said):
    with pytest.raises(DepthLMError, match=said):
        reward_functions(mix)
