"""A family accepts what registers in it, before or after its recipe was defined."""

import gc
import pickle
from collections.abc import Iterator
from typing import ClassVar, Literal

import pytest
from pydantic import Field, PositiveFloat

import xmodal.components
from xmodal.components.component import Buildable, Component
from xmodal.components.config import Config
from xmodal.components.description import describe
from xmodal.components.validation import validate
from xmodal.errors import UserError


class ShapeConfig(Component):
    family: ClassVar[str] = "shape"


class DrawingConfig(Config):
    shape: ShapeConfig = Field(description="what is drawn")
    others: list[ShapeConfig] = Field([], description="what else")


class Circle:
    def __init__(self, radius: float, colour: str = "red") -> None:
        self.radius, self.colour = radius, colour


class CircleConfig(ShapeConfig):
    kind: Literal["circle"] = "circle"
    radius: PositiveFloat = Field(1.0, description="of it")
    builds: ClassVar[type] = Circle


class Group:
    def __init__(self, member: object) -> None:
        self.member = member


class GroupConfig(ShapeConfig):
    kind: Literal["group"] = "group"
    member: ShapeConfig = Field(CircleConfig(), description="a shape in it")
    builds: ClassVar[str] = "Group"


class LidConfig(Buildable):
    radius: PositiveFloat = 2.0
    builds: ClassVar[str] = "Circle"


class Box:
    def __init__(self, lid: object) -> None:
        self.lid = lid


class BoxConfig(Buildable):
    lid: LidConfig = LidConfig()
    builds: ClassVar[str] = "Box"


def test_a_configuration_of_no_family_builds_its_class_too() -> None:
    box = BoxConfig(lid=LidConfig(radius=3)).build()
    lid = box.lid(colour="blue")  # a callable: only the box knows the colour
    assert (lid.radius, lid.colour) == (3, "blue")


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(ShapeConfig.kinds)
    yield
    ShapeConfig.kinds.clear()
    ShapeConfig.kinds.update(before)
    gc.collect()


def test_what_registers_later_is_accepted(registered: None) -> None:
    with pytest.raises(UserError, match=r"shape.kind: square is not allowed; allowed: circle"):
        validate(DrawingConfig, {"shape": {"kind": "square"}}, "FILE")

    class SquareConfig(ShapeConfig):
        kind: Literal["square"] = "square"

    drawing = validate(DrawingConfig, {"shape": {"kind": "square"}}, "FILE")
    assert type(drawing.shape) is SquareConfig


def test_two_components_of_one_name_are_refused(registered: None) -> None:
    with pytest.raises(UserError, match="two components are shape circle"):

        class OtherConfig(ShapeConfig):
            kind: Literal["circle"] = "circle"


def test_a_component_builds_its_class_from_plain_arguments() -> None:
    circle = CircleConfig(radius=2).build(colour="blue")
    assert (circle.radius, circle.colour) == (2, "blue")


def test_components_within_a_component_arrive_as_what_builds_them() -> None:
    group = GroupConfig(member=CircleConfig(radius=3)).build()
    assert group.member(colour="green").radius == 3
    assert group.member(colour="green").colour == "green"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shape": {}}, "shape.kind is missing; allowed: circle, group"),
        ({"shape": {"kind": "circel"}}, "(did you mean circle?)"),
        ({"shape": {"kind": "circle", "radus": 2}}, "unknown key shape.radus (did you mean radius"),
        (
            {"shape": {"kind": "group", "member": {"kind": "circle", "radius": -1}}},
            "shape.member.radius: -1 is not allowed",
        ),
        ({"shape": {"kind": "circle"}, "others": [{"kind": "x"}]}, "others.0.kind: x is not"),
        ({"shape": 5}, "shape: 5 is not allowed: input should be a mapping"),
    ],
)
def test_mistakes_name_the_key(values: dict, said: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(DrawingConfig, values, "FILE")
    assert said in str(caught.value)


def test_values_come_back_from_json_and_pickles() -> None:
    drawing = DrawingConfig(shape=GroupConfig(member=CircleConfig(radius=3)))
    dumped = drawing.model_dump(mode="json")
    assert dumped["shape"]["member"] == {"kind": "circle", "radius": 3.0}
    assert DrawingConfig.model_validate(dumped) == drawing
    assert pickle.loads(pickle.dumps(drawing)) == drawing


def test_help_of_components_within_their_own_family_ends() -> None:
    keys = [key for key, _, _ in describe(DrawingConfig)]
    assert {"shape.radius", "shape.member.radius"} <= set(keys)


def test_a_class_that_does_not_fit_its_configuration_is_one_line() -> None:
    class EdgedConfig(Buildable):
        edges: int = 3
        builds: ClassVar[type] = Circle

    class NamelessConfig(Buildable):
        builds: ClassVar[str] = "Cirle"

    with pytest.raises(UserError, match=r"EdgedConfig does not fit .*Circle takes .*'edges'"):
        EdgedConfig().build(1.0)
    with pytest.raises(UserError, match="builds = 'Cirle' names nothing; write the name of a cl"):
        NamelessConfig().build()


def test_the_public_names_are_these() -> None:
    assert xmodal.components.__all__ == [
        "Buildable",
        "Component",
        "Config",
        "Duration",
        "Mark",
        "Secret",
        "Span",
        "Was",
    ]
    assert all(getattr(xmodal.components, name) for name in xmodal.components.__all__)
