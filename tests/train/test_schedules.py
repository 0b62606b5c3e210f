import pytest
from hypothesis import given
from hypothesis import strategies as st

from imori.train.recipe import Recipe
from imori.train.schedules import rate_at


def rates(total: int = 100, per_epoch: int = 10, **choices: object) -> list[float]:
    recipe = Recipe(lr=0.8, **choices)
    return [rate_at(recipe, step, total, per_epoch) for step in range(total)]


def test_constant() -> None:
    assert set(rates(schedule="constant")) == {0.8}


def test_step_drops_every_third_of_the_run_or_as_told() -> None:
    thirds = rates(total=90, schedule="step")
    assert thirds[0] == thirds[29] == 0.8
    assert thirds[30] == thirds[59] == pytest.approx(0.08)
    assert thirds[60] == thirds[89] == pytest.approx(0.008)
    told = rates(schedule="step", step_epochs=2, step_factor=0.5)
    assert told[19] == 0.8
    assert told[20] == pytest.approx(0.4)
    assert told[99] == pytest.approx(0.8 * 0.5**4)


def test_cosine_falls_to_nothing() -> None:
    falling = rates(schedule="cosine")
    assert falling[0] == 0.8
    assert falling[50] == pytest.approx(0.4)
    assert falling == sorted(falling, reverse=True)
    assert 0 < falling[-1] < 0.001


def test_onecycle_rises_for_thirty_percent_and_falls_far_below_its_start() -> None:
    cycle = rates(schedule="onecycle")
    assert cycle[0] == pytest.approx(0.8 / 25)
    assert cycle[30] == pytest.approx(0.8)
    assert max(cycle) == cycle[30]
    assert cycle[-1] < cycle[0] / 10


def test_warm_up_rises_linearly_and_the_schedule_counts_from_its_end() -> None:
    warm = rates(schedule="cosine", warmup_epochs=2)
    assert warm[:20] == pytest.approx([0.8 * (i + 1) / 21 for i in range(20)])
    assert warm[20] == 0.8
    assert warm[60] == pytest.approx(0.4)


@given(
    total=st.integers(1, 300),
    per_epoch=st.integers(1, 50),
    schedule=st.sampled_from(["constant", "step", "cosine", "onecycle"]),
    warmup=st.floats(0, 10),
)
def test_no_rate_leaves_its_bounds(total: int, per_epoch: int, schedule: str, warmup: float) -> None:
    for rate in rates(total, per_epoch, schedule=schedule, warmup_epochs=warmup):
        assert 0 <= rate <= 0.8 * (1 + 1e-12)
