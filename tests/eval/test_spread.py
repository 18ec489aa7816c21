"""Other answers that a model might have given: from samples, and from its tokens' log-probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from depthlm.spread import Token, estimate, from_samples, from_tokens
from eval.answer_file import read_answers
from eval.ask import ask_suite
from eval.engines.endpoint import EndpointEngine
from eval.score import predictions, score_rows


def named(text: str, p: float, others: dict[str, float]) -> Token:
    return Token(text, math.log(p), tuple((name, math.log(share)) for name, share in others.items()))


def test_digits_are_replaced_and_weighed_by_what_came_before():
    tokens = [named("3", 0.6, {"3": 0.6, "4": 0.4}), named(".", 1.0, {}), named("2", 0.5, {"2": 0.5, "9": 0.5})]
    found = dict(from_tokens(tokens))
    assert found == pytest.approx({"3.2": 0.3, "4.2": 0.4, "3.9": 0.3})
    assert next(iter(found)) == "3.2"


def test_a_point_and_a_digit_may_stand_in_each_others_place():
    early = [named("1", 1.0, {}), named("2", 0.5, {".": 0.5}), named(".", 1.0, {}), named("5", 1.0, {})]
    assert dict(from_tokens(early)) == pytest.approx({"12.5": 0.5, "1.5": 0.5})
    late = [named("3", 1.0, {}), named(".", 0.5, {"1": 0.25, " ": 0.25}), named("4", 1.0, {})]
    assert dict(from_tokens(late)) == pytest.approx({"3.4": 2 / 3, "31.4": 1 / 3})
    longer = [named("7", 1.0, {}), named(" m", 0.5, {"2": 0.5})]
    assert dict(from_tokens(longer)) == pytest.approx({"7 m": 0.5, "72 m": 0.5})


def test_the_number_is_weighed_by_the_token_that_ends_it():
    number = [named("3", 1.0, {}), named(".", 1.0, {}), named("2", 1.0, {})]
    ended = [*number, named("", 0.6, {"<end>": 0.6, "5": 0.4})]
    assert dict(from_tokens(ended)) == pytest.approx({"3.2": 0.6, "3.25": 0.4})
    varied = [*number[:2], named("2", 0.5, {"9": 0.5}), named(" m", 0.5, {" metres": 0.1, "5": 0.4}), named("", 1, {})]
    assert dict(from_tokens(varied)) == pytest.approx({"3.2 m": 0.3, "3.9 m": 0.5, "3.25 m": 0.2})
    assert from_tokens(number) == (("3.2", 1.0),), "of a number that was cut off nothing is known of its end"


def test_only_the_last_number_varies_and_words_do_not():
    tokens = [named("2", 0.5, {"9": 0.5}), named(" m / ", 1.0, {"x": 0.1}), named("4", 0.5, {"5": 0.5})]
    assert dict(from_tokens(tokens)) == pytest.approx({"2 m / 4": 0.5, "2 m / 5": 0.5})
    assert from_tokens([named("none", 0.2, {"1": 0.8})]) == (("none", 1.0),)


def test_median_and_intervals_are_weighted_quantiles():
    rng = np.random.default_rng(0)
    values = rng.lognormal(1, 0.5, 41).round(2)
    found = estimate(from_samples([f"{v} m" for v in values]), "m")
    assert found.median == np.sort(values)[20]
    low, high = found.bounds[0.9]
    assert np.mean((values >= low) & (values <= high)) >= 0.9 > np.mean((values > low) & (values < high)) - 0.05
    assert found.bounds[0.5][0] >= low and found.bounds[0.5][1] <= high
    assert estimate([("1 m", 0.9), ("100 cm", 0.05), ("9 m", 0.05)], "m").median == 1.0


def test_the_median_of_two_halves_is_midway():
    assert estimate([("1", 0.5), ("3", 0.5)], "m").median == 2.0
    assert estimate(from_samples(["9", "1", "4", "2", "3", "8"]), "m").median == 3.5
    assert estimate([("1", 0.1), ("2", 0.4), ("5", 0.2), ("9", 0.3)], "m").median == 3.5
    assert estimate([("1", 0.49), ("3", 0.51)], "m").median == 3.0
    assert estimate([("3", 1.0)], "m").median == 3.0


def test_answers_without_a_number_are_left_out_until_they_are_the_most():
    assert estimate(from_samples(["2", "2", "dunno"]), "m").median == 2
    assert estimate(from_samples(["2", "dunno", "dunno"]), "m") is None
    assert estimate((), "m") is None


def test_samples_of_an_endpoint_become_a_median_and_an_interval(suite, server, tmp_path):
    server.choices = lambda body, text: [
        {"message": {"content": f"{float(text.split()[0]) * f}"}} for f in np.linspace(0.5, 1.5, body["n"])
    ]
    engine = EndpointEngine(server.url, "served", samples=5)
    ask_suite(suite, engine, tmp_path / "a.jsonl", progress=False)
    assert server.bodies["q003"]["temperature"] == 1.0 and server.bodies["q003"]["n"] == 5
    answers = read_answers(tmp_path / "a.jsonl")
    found = {p.id: p for p in predictions(suite, answers)}
    assert found["q003"].value == 3.5 and found["q003"].bounds["0.9"] == [1.75, 5.25]
    assert "spread" not in server.bodies["q003"] and len(answers.spreads["q003"]) == 5
    assert score_rows(list(found.values()), n_boot=20)[0]["n"] == 12


def test_log_probabilities_of_an_endpoint_become_a_spread(suite, server, tmp_path):
    content = [
        {"token": "4", "logprob": math.log(0.5), "top_logprobs": [{"token": "6", "logprob": math.log(0.5)}]},
    ]
    server.choices = lambda body, text: [{"message": {"content": "4"}, "logprobs": {"content": content}}]
    ask_suite(suite, EndpointEngine(server.url, "served", logprobs=True), tmp_path / "a.jsonl", progress=False)
    assert read_answers(tmp_path / "a.jsonl").spreads["q000"][0][0] == "4"
    content.append({"token": "<|im_end|>", "logprob": math.log(0.5), "top_logprobs": content[0]["top_logprobs"]})
    ask_suite(suite, EndpointEngine(server.url, "served", logprobs=True), tmp_path / "b.jsonl", progress=False)
    told = read_answers(tmp_path / "b.jsonl").spreads["q000"]
    assert dict(told) == pytest.approx({"4": 0.25, "6": 0.5, "46": 0.25}), "vLLM tells the token that ends it"
    assert server.bodies["q000"]["logprobs"] is True and server.bodies["q000"]["temperature"] == 0
    spread = read_answers(tmp_path / "a.jsonl").spreads["q000"]
    assert dict(spread) == pytest.approx({"4": 0.5, "6": 0.5})
