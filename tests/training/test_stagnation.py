"""A loss that does not move is noticed."""

from xmodal.training.stagnation import Stagnation


def said(losses: list[float], stages: str = "") -> list[str]:
    notices = Stagnation()
    names = stages or "a" * len(losses)
    lines = [notices.warning(name, loss) for name, loss in zip(names, losses, strict=True)]
    return [line for line in lines if line]


def test_a_loss_that_does_not_move_is_said_once() -> None:
    (line,) = said([4.85 + 0.01 * (n % 3) for n in range(3 * Stagnation.LINES)])
    assert line.startswith("the loss of stage a stays at 4.8")
    # Collapsed in the first steps, into the value of guessing.
    assert len(said([6.3, 4.2, 4.17, *[4.16] * Stagnation.LINES])) == 1
    # Noise of small batches.
    (line,) = said([3.7 + 0.05 * (n % 3 - 1) for n in range(Stagnation.LINES)])
    assert "stays at" in line


def test_a_loss_of_nothing_is_said() -> None:
    (line,) = said([0.0] * Stagnation.LINES)
    assert line.startswith("the loss of stage a is 0: nothing is left to learn")


def test_each_stage_begins_anew() -> None:
    size = Stagnation.LINES
    assert len(said([1.0] * 2 * size, "a" * size + "b" * size)) == 2
    assert said([1.0] * 2 * (size - 1), "a" * (size - 1) + "b" * (size - 1)) == []


def test_a_loss_that_falls_is_well() -> None:
    assert said([5.0 - 0.1 * n for n in range(Stagnation.LINES)]) == []
    assert said([5.0 - 0.01 * n for n in range(Stagnation.LINES)]) == []
    assert said([0.1 + 0.01 * (-1) ** n for n in range(Stagnation.LINES)]) == []
