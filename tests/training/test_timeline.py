"""When stages begin and end, and what follows which step."""

from collections.abc import Callable

from xmodal.assembly.recipe import Recipe
from xmodal.components.config import Span
from xmodal.training.timeline import Timeline

MakeRecipe = Callable[..., Recipe]


def after(tells: Callable[[int], bool], timeline: Timeline) -> list[int]:
    return [step for step in range(1, timeline.total + 1) if tells(step)]


def test_stages_follow_each_other(make_recipe: MakeRecipe) -> None:
    stages = [{"length": "2 epochs"}, {"length": "7 steps"}, {"length": "95 samples"}]
    timeline = make_recipe(stages=stages).timeline(55)
    # 110 and 95 samples in batches of ten; a half is rounded to the even number of steps.
    assert [(span.start, span.end) for span in timeline.stages] == [(0, 11), (11, 18), (18, 28)]
    assert [span.number for span in timeline.stages] == [0, 1, 2]
    assert timeline.total == 28
    assert [timeline.stages[1].progress(step) for step in (11, 18)] == [0, 1]


def test_the_order_of_samples_goes_on_unless_a_stage_begins_it_once_more(
    make_recipe: MakeRecipe,
) -> None:
    stages = [
        {"length": "5 steps", "data": data}
        for data in ("continue", "continue", "restart", "continue")
    ]
    timeline = make_recipe(stages=stages).timeline(100)
    assert [span.origin for span in timeline.stages] == [0, 0, 10, 10]


def test_evaluations_and_checkpoints_come_at_their_steps_and_at_ends(
    make_recipe: MakeRecipe,
) -> None:
    recipe = make_recipe(
        stages=[{"length": "7 steps"}, {"length": "6 steps"}],
        evaluation={"every": "4 steps"},
        checkpoints={"every": "5 steps"},
    )
    timeline = recipe.timeline(100)
    # The stages' ends as well: what a stage has led to is known, and the next begins from there.
    assert after(timeline.evaluates_after, timeline) == [4, 7, 8, 12, 13]
    assert timeline.evaluations == 5
    assert after(timeline.saves_after, timeline) == [5, 7, 10, 13]


def test_zero_leaves_the_ends_alone(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        stages=[{"length": "9 steps"}], evaluation={"every": 0}, checkpoints={"every": 0}
    )
    timeline = recipe.timeline(100)
    assert after(timeline.evaluates_after, timeline) == [9]
    assert timeline.evaluations == 1
    assert after(timeline.saves_after, timeline) == [9]


def test_percentages_are_of_the_run_or_of_a_stage(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(stages=[{"length": "40 steps"}] * 2, evaluation={"every": "25 %"})
    timeline = recipe.timeline(100)
    assert after(timeline.evaluates_after, timeline) == [20, 40, 60, 80]
    assert timeline.evaluations == 4
    assert timeline.steps(Span("5 %"), 40) == 2
