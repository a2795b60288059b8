"""Garbage is collected after steps and at no other time."""

import gc
import os
import weakref

import pytest

from xmodal.training.garbage import FULL_EVERY, ScheduledCollection


class Knot:
    """An object that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_waits_for_the_end_of_a_step() -> None:
    old = Knot()
    seen = weakref.ref(old)
    with ScheduledCollection() as garbage:
        assert not gc.isenabled()
        young = weakref.ref(Knot())
        many = [Knot() for _ in range(5000)]
        del many
        assert young() is not None
        garbage.after_step(1)
        assert young() is None
    assert gc.isenabled()
    del old
    gc.collect()
    assert seen() is None  # nothing stays frozen


def test_what_outlives_a_step_is_collected_after_many() -> None:
    with ScheduledCollection() as garbage:
        kept = [Knot()]
        seen = weakref.ref(kept[0])
        garbage.after_step(1)
        kept.clear()
        garbage.after_step(2)
        assert seen() is not None
        garbage.after_step(FULL_EVERY)
        assert seen() is None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_loaders_collect_by_themselves() -> None:
    with ScheduledCollection():
        child = os.fork()
        if not child:
            os._exit(0 if gc.isenabled() else 1)
        assert os.waitpid(child, 0)[1] == 0
