"""Components: the parts of a recipe chosen by `kind`, from this package or from plugins.

A family (objectives, image encoders, …) is a subclass of `Component` that names itself by `family`.
A component is a subclass of a family with a `kind`, its keys as fields, and `builds`, the class
that it builds:

    class AngularConfig(ObjectiveConfig):
        kind: Literal["angular"] = "angular"
        margin: PositiveFloat = Field(0.2, description="angle in radians")
        builds = "Angular"

Defining the class registers it: every key of a recipe whose type is the family accepts it then.
"""

import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, SerializationInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from xmodal.components.config import Config, Secret, tag_of
from xmodal.components.plugins import import_announced
from xmodal.errors import UserError


class Buildable(Config):
    """A configuration that holds the arguments of a class and builds its instances."""

    # The class: itself, its name in the configuration's module, or `module:name`; the names cost no
    # import before it is built.
    builds: ClassVar[str | type] = ""

    @classmethod
    def built_class(cls) -> type:
        """Import and return the class that this configuration builds."""
        if isinstance(cls.builds, type):
            return cls.builds
        module, colon, name = cls.builds.rpartition(":")
        found: type | None = getattr(
            import_module(module) if colon else sys.modules[cls.__module__], name, None
        )
        if found is None:
            raise UserError(
                f"{_place(cls)}: builds = {cls.builds!r} names nothing; write the name of a class "
                "or function of the same module, or module:name"
            )
        return found

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields by name, as the class takes them: what describes a class as its `build`."""
        names = [name for name in type(self).model_fields if name != "kind"]
        return {name: _argument(getattr(self, name)) for name in names}

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Return an instance of the class, from the fields and the given arguments."""
        call = partial(self.built_class(), *args, **self.arguments, **kwargs)
        self._check(call)
        return call()

    def _check(self, call: partial) -> None:
        """Raise `UserError` where the class does not take the fields."""
        try:
            signature(call.func).bind(*call.args, **call.keywords)
        except ValueError:  # it has no signature
            return
        except TypeError as error:
            raise UserError(
                f"{_place(type(self))} does not fit what it builds: {_place(call.func)} takes "
                f"{signature(call.func)}, and {error}"
            ) from None


class Component(Buildable):
    """A configuration that `kind` distinguishes from others of its family."""

    if TYPE_CHECKING:
        kind: Any  # a field of every component: Literal["name"] = "name"

    family: ClassVar[str]  # in words, of the class that is the family
    default_kind: ClassVar[str | None] = None  # of a family: what a mapping without `kind` means
    kinds: ClassVar[dict[str, type["Component"]]] = {}  # of a family: its components

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "family" in cls.__dict__:
            cls.kinds = {}
        elif (kind := tag_of(cls)) is not None:
            cls._register(kind)

    @classmethod
    def _register(cls, kind: str) -> None:
        other = cls.kinds.get(kind)
        if other and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UserError(
                f"two components are {cls.family} {kind}: {_place(other)} and {_place(cls)}; "
                "rename the kind of one"
            )
        cls.kinds[kind] = cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "family" not in cls.__dict__:
            return handler(source)
        # Chosen when a value is read, so that plugins can register later.
        return core_schema.no_info_plain_validator_function(
            cls._choose,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    @classmethod
    def _choose(cls, value: Any) -> "Component":
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise PydanticKnownError("model_attributes_type")
        kind = value.get("kind", cls.default_kind)
        if kind is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
        if not isinstance(kind, str) or not cls.is_known(kind):
            context = {"discriminator": "'kind'", "tag": str(kind), "expected_tags": ""}
            raise PydanticKnownError("union_tag_invalid", context)
        return cls.kinds[kind].model_validate(value)

    @classmethod
    def is_known(cls, kind: str) -> bool:
        """Return whether a kind is registered, after loading installed plugins if necessary."""
        return kind in cls.kinds or (import_announced() and kind in cls.kinds)


def registered(family: type[Component] = Component) -> Iterator[type[Component]]:
    """Yield the components of all families."""
    for one in family.__subclasses__():
        yield from one.kinds.values() if "family" in vars(one) else registered(one)


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field can hold: itself, of a family, of a union, of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if issubclass(annotation, Component) and "family" in vars(annotation):
            return list(annotation.kinds.values())
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]


def holds_secrets(annotation: Any) -> bool:
    """Return whether a field, or a part of it, holds secrets: its values are never shown."""
    return Secret in _models_below(annotation, set())


def _models_below(annotation: Any, found: set[type[BaseModel]]) -> set[type[BaseModel]]:
    for model in models_of(annotation):
        if model not in found:
            found.add(model)
            for field in model.model_fields.values():
                _models_below(field.annotation, found)
    return found


def _argument(value: Any) -> Any:
    return partial(type(value).build, value) if isinstance(value, Buildable) else value


def _dump(value: Component, info: SerializationInfo) -> Any:
    return value.model_dump(
        mode=info.mode, exclude_unset=info.exclude_unset, exclude_defaults=info.exclude_defaults
    )


def _place(component: Any) -> str:
    return f"{component.__module__}.{component.__qualname__}"
