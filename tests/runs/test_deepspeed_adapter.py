"""The private names of DeepSpeed that xmodal uses exist in this version."""

import os
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.processes import CONTEXT
from xmodal.errors import UserError


def _engines(pipe: Any) -> None:
    """Make an engine of every ZeRO stage, take a step with it, and end it."""
    from xmodal.runs import deepspeed_adapter, deepspeed_shares

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    parts: Any = []
    for stage in range(4):
        layer = nn.Linear(3, 2)
        config = {
            "train_batch_size": 1,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
        }
        adam = torch.optim.Adam(layer.parameters())
        engine = deepspeed_adapter.initialize(layer, adam, config)
        engine.backward(engine(torch.ones(1, 3)).sum())
        engine.step()
        if stage:
            for flat, state, of_flat in deepspeed_shares.optimizer_shares(engine):
                sizes = {part.name: part.numel for part in of_flat}
                parts.append((sizes, sum(sizes.values()) <= flat.numel(), sorted(state)))
        deepspeed_adapter.destroy(engine)
    pipe.send((parts, "torch._inductor.compile_fx" in sys.modules))


def test_engines_have_the_names_that_are_used_of_them() -> None:
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_engines, args=(theirs,))
    process.start()
    theirs.close()
    parts, compiles = ours.recv()
    process.join()
    share = ({"weight": 6, "bias": 2}, True, ["exp_avg", "exp_avg_sq", "step"])
    assert parts == [share] * 3
    assert not compiles  # the import of torch.compile's compilers takes a second


def test_a_name_that_has_moved_is_named() -> None:
    from xmodal.runs.deepspeed_adapter import check_engine, check_names

    for place in ("deepspeed.runtime.zero.stage3:gone", "deepspeed.gone:name"):
        name = place.replace(":", r"\.")
        line = rf"^DeepSpeed [\d.]+ has no {name}, which xmodal uses; install .* 'xmodal\[train\]'$"
        with pytest.raises(UserError, match=line):
            check_names({"it": place})
    optimizer = SimpleNamespace(param_groups=[])
    engine: Any = SimpleNamespace(
        checkpoint_engine=0, optimizer=optimizer, zero_optimization_stage=lambda: 3
    )
    with pytest.raises(UserError, match=r"has no engine.set_gradient_accumulation_boundary \(ZeR"):
        check_engine(engine)
    for name in ("set_gradient_accumulation_boundary", "is_gradient_accumulation_boundary"):
        setattr(engine, name, print)
    engine.managed_gradient_accumulation = engine.allreduce_gradients = print
    with pytest.raises(UserError, match=r"has no engine\.optimizer\.optimizer\.state \(ZeRO 3\),"):
        check_engine(engine)
