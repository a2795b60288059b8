"""What is allowed and said of a stage's first step."""

from xmodal.training.config import TrainingConfig
from xmodal.training.stage_method import COMPILATION, first_step, step_patience


def test_the_first_step_may_take_longer_and_compiling_longer_still() -> None:
    plain = TrainingConfig.model_validate({"watchdog": 10})
    compiled = TrainingConfig.model_validate({"watchdog": 10, "compile": True})
    for training in (plain, compiled):
        assert step_patience(training, is_first=False) == 10
    assert step_patience(plain, is_first=True) == 30
    assert step_patience(compiled, is_first=True) == 30 + COMPILATION
    assert first_step(plain) == "first step"
    assert first_step(compiled) == "first step, which compiles the encoders"
