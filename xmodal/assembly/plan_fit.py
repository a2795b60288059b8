"""Search for the settings of least time with which a run fits into memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from shlex import quote
from typing import Any

from xmodal.activity import activity
from xmodal.assembly.checks import check_method
from xmodal.assembly.recipe import Recipe, with_values
from xmodal.assembly.run_plan import Planner, RunPlan
from xmodal.components.validation import in_yaml
from xmodal.errors import UserError

CHECKPOINTS = ("none", "selective", "blocks")  # from most memory to least
MICRO_BATCHES = 256  # of a step, at most


@dataclass(frozen=True, order=True)
class Variant:
    """Settings that trade time for memory: a greater one needs no more memory."""

    zero: int
    checkpoints: int  # place in CHECKPOINTS
    micro_batches: int

    def least_memory(self, other: "Variant", plan: RunPlan) -> float:
        """Return what this needs at least, in bytes, given the plan of another one.

        Of what a step needs, activations alone are as many as the micro-batch's samples.
        """
        if self.zero > other.zero or self.checkpoints > other.checkpoints:
            return 0.0
        grown = other.micro_batches / self.micro_batches - 1
        return max(
            sum(one.memory.values()) + min(grown, 0) * one.memory.get("activations", 0)
            for one in plan.stages
        )


def in_words(keys: Mapping[str, Any]) -> str:
    """Return keys and their values as a shell takes them."""
    return " ".join(quote(f"{key}={in_yaml(value)}") for key, value in keys.items())


def fit(planner: Planner) -> tuple[RunPlan, dict[str, Any]]:
    """Return the fastest plan that fits, and the values of the keys that it changes.

    A recipe that fits as it is remains. Variants are tried from the fastest on; what surely needs
    too much, by those that were tried, is skipped. Raises `UserError` where none fits.
    """
    plan = planner.plan(planner.recipe)
    if plan.fits:
        return plan, {}
    tried: list[tuple[Variant, RunPlan]] = []
    for variant, recipe, keys in _from_the_fastest(planner):
        if all(variant.least_memory(*one) <= plan.usable for one in tried):
            with activity(f"trying {in_words(keys)}"):
                plan = planner.plan(recipe)
            if plan.fits:
                return plan, keys
            tried.append((variant, plan))
    least = min(one.memory for _, one in tried)
    raise UserError(
        "nothing fits: with micro-batches, ZeRO and checkpoints of activations a GPU needs "
        f"{least / 1e9:.1f} GB at least, and has {plan.usable / 1e9:.1f} GB for them; use more or "
        "larger GPUs, a smaller data.batch_size or smaller encoders"
    )


def _from_the_fastest(planner: Planner) -> list[tuple[Variant, Recipe, dict[str, Any]]]:
    found = []
    for variant, recipe, keys in _variants(planner):
        found.append((planner.estimate(recipe), len(keys), variant, recipe, keys))
    return [each[2:] for each in sorted(found, key=itemgetter(0, 1, 2))]


def _variants(planner: Planner) -> Iterator[tuple[Variant, Recipe, dict[str, Any]]]:
    """Yield the variants that a recipe allows, with what they change."""
    share = planner.recipe.data.batch_size // planner.hardware.ranks
    numbers = [n for n in range(1, min(share, MICRO_BATCHES) + 1) if share % n == 0]
    for zero in range(4):
        for checkpoints in range(len(CHECKPOINTS)):
            variants = [Variant(zero, checkpoints, number) for number in numbers]
            changes = [_changes(planner.recipe, one, share) for one in variants]
            try:
                recipes = [with_values(planner.recipe, keys, "--fit") for keys in changes]
                check_method(recipes[0], planner.method(recipes[0]))
            except UserError:
                continue  # some optimisers, encoders and options of ZeRO are not for it
            yield from zip(variants, recipes, changes, strict=True)


def _changes(recipe: Recipe, variant: Variant, share: int) -> dict[str, Any]:
    """Return the keys whose values are other ones in a variant."""
    training, kept = recipe.training, CHECKPOINTS[variant.checkpoints]
    # Whole, since a recipe may have it as a number, which has no keys in it.
    options = training.zero.model_dump(exclude_unset=True, exclude={"stage"})
    zero = {"stage": variant.zero} | options if options else variant.zero
    is_now = training.zero.stage == variant.zero
    wanted = {
        "training.zero": (zero if is_now else None, zero),
        "training.checkpoint_activations": (training.checkpoint_activations, kept),
        "data.micro_batch_size": (
            recipe.data.micro_batch_size or share,
            share // variant.micro_batches,
        ),
    }
    return {key: value for key, (now, value) in wanted.items() if now != value}
