"""The table of outputs a model may give, and time that stays bounded whatever comes."""

import csv
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthlm.answers import parse_answer

with (Path(__file__).parents[1] / "golden" / "answers.csv").open(newline="") as file:
    TABLE = list(csv.DictReader(file))


def test_the_table_is_long_enough():
    assert len(TABLE) >= 60


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["text"][:40] or "empty")
def test_table(row):
    parsed = parse_answer(row["text"], row["unit"])
    if row["expected"] == "":
        assert parsed.value is None and parsed.reason
    else:
        assert parsed.value == pytest.approx(float(row["expected"]), rel=1e-9)


@pytest.mark.parametrize(
    "noise", ["9", "(", "x y 3 ", "1,", "- ", " ", "1 m ", "1.", "<answer>", "3 to ", "twenty-", "e", "½"]
)
def test_megabytes_of_noise_take_no_time(noise):
    text = noise * (5_000_000 // len(noise))
    start = time.perf_counter()
    parse_answer(text, "m")
    assert time.perf_counter() - start < 2.0


def test_the_end_of_a_long_answer_counts():
    assert parse_answer("thinking 1.0 m, " * 100_000 + "so it is 7.5 m", "m").value == 7.5


@given(st.text())
def test_any_text_gives_a_number_or_a_reason(text):
    parsed = parse_answer(text, "m")
    assert (parsed.value is None) == (parsed.reason is not None)


@given(st.floats(0.01, 999999), st.sampled_from(["{:.2f}", "{:.2f} m", "It is {:.2f} metres away.", "{:,.2f} m"]))
def test_numbers_come_back(value, form):
    assert parse_answer(form.format(value), "m").value == pytest.approx(float(f"{value:.2f}"))
