"""Serializers whose output is cached: those of Django REST framework, and whatever has a to_representation().

    @cacheable_serializer
    class AuthorSerializer(serializers.ModelSerializer):
        books = BookSerializer(many=True)
        class Meta:
            model = Author
            fields = ["id", "name", "books"]

What one object gives is kept until its row is changed, or any row of the models of its relations and of nested
serializers, or of what it has asked cached querysets for. The key has the class and its fields; all values that the
object has, and those loaded with it, for they may be older than the row, or not saved; and the context (without the
view; of the request, its user and its address). A context that has no key is not cached.
"""

from __future__ import annotations

from copy import deepcopy
from hashlib import blake2b

from django.db import models

from zoocache._errors import UnkeyableArgument
from zoocache._functions import cacheable
from zoocache.context import add_deps
from zoocache.contrib.django.connection import cache
from zoocache.contrib.django.tags import model_tag, reads, row_tag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "BaseCacheableSerializerMixin",
    "CacheableListSerializerMixin",
    "CacheableSerializerMixin",
    "cacheable_serializer",
]


@cacheable(namespace="django.serializer", ignore=("make", "tags"))
def _represented(place: str, context: Any, make: Callable[[], Any], tags: set[str]) -> Any:
    """What a serializer gives."""
    add_deps(tags)
    return make()


def _loaded(value: Any, within: tuple[Any, ...]) -> Any:
    """The values of an object, and of those that were loaded with it."""
    if isinstance(value, models.QuerySet):
        value = value._result_cache or ()
    if isinstance(value, (list, tuple)):
        return [_loaded(each, within) for each in value]
    if not isinstance(value, models.Model):
        return value
    if any(value is each for each in within):
        return value.pk
    values = dict(value.__dict__)
    more = {**values.pop("_state").fields_cache, **values.pop("_prefetched_objects_cache", {})}
    within = (*within, value)
    return value._meta.label_lower, values, {name: _loaded(each, within) for name, each in more.items()}


def _related(serializer: Any, model: Any) -> set[Any]:
    """The models that its serializer shows of one: of all relations, unless each field of it is one of the model's."""
    fields = getattr(serializer, "fields", {}).values()
    relations = {
        each.get_accessor_name() if hasattr(each, "get_accessor_name") else each.name: each
        for each in model._meta.get_fields()
        if each.is_relation and each.related_model
    }
    shown = {getattr(each, "source", None) for each in fields}
    if shown and shown <= relations.keys() | {each.name for each in model._meta.concrete_fields}:
        relations = {name: each for name, each in relations.items() if name in shown}
    found = set()
    for each in relations.values():
        through = getattr(getattr(each, "remote_field", None), "through", None) or getattr(each, "through", None)
        found |= {each.related_model, *([through] if through else [])}
    for field in fields:
        nested = getattr(field, "child", field)
        inner = getattr(getattr(nested, "Meta", None), "model", None)
        if inner is not None:
            found |= {inner, *_related(nested, inner)}
    return found


class BaseCacheableSerializerMixin:
    """What serializers need to be cached: their model, as Meta.model or zoocache_model, and those that it shows."""

    def _get_zoo_model(self) -> Any:
        found = getattr(self, "zoocache_model", None) or getattr(getattr(self, "Meta", None), "model", None)
        if found is None:
            raise TypeError(f"{type(self).__name__} has neither Meta.model nor zoocache_model: what is it of?")
        return found

    def _get_related_models(self) -> set[Any]:
        """The models of its relations, and of the serializers in it."""
        return _related(self, self._get_zoo_model())

    def _zoo_context(self) -> dict[str, Any]:
        """What it says of how it is to be shown."""
        context = {name: each for name, each in dict(getattr(self, "context", None) or {}).items() if name != "view"}
        request = context.pop("request", None)
        if request is not None:
            user = getattr(request, "user", None)
            context["request"] = (request.build_absolute_uri(), str(getattr(user, "pk", None)))
        return context

    def _zoo_place(self, instance: Any) -> str:
        kind = type(self)
        text = repr((list(getattr(self, "fields", ())), instance._state.db, _loaded(instance, ())))
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return f"{kind.__module__}.{kind.__qualname__}:{instance._meta.label_lower}:{instance.pk}:{digest}"

    def _zoo_tags(self, instance: Any) -> set[str]:
        tags = {tag for model in self._get_related_models() for tag in reads(model)}
        for model in (type(instance), *type(instance)._meta.get_parent_list()):
            tags |= {row_tag(model._meta.concrete_model, instance.pk) or model_tag(model)}
        return tags


class CacheableSerializerMixin(BaseCacheableSerializerMixin):
    """A serializer of one object; what is not saved is not cached."""

    def _get_cache_key(self, instance: Any) -> str:
        key: str = _represented.key(self._zoo_place(instance), self._zoo_context(), dict, set())
        return key

    def to_representation(self, instance: Any) -> Any:
        """As its class gives it, or kept."""
        make = super().to_representation  # type: ignore[misc]
        if getattr(instance, "pk", None) is None or instance._state.adding:
            return make(instance)
        cache()
        place, context = self._zoo_place(instance), self._zoo_context()
        try:
            _represented.key(place, context, dict, set())
        except UnkeyableArgument:
            return make(instance)
        return deepcopy(_represented(place, context, lambda: make(instance), self._zoo_tags(instance)))


class CacheableListSerializerMixin(BaseCacheableSerializerMixin):
    """A serializer of many objects: each is kept by itself, so that one that changes costs one."""

    def to_representation(self, data: Any) -> Any:
        """As its child gives them."""
        found = data.all() if hasattr(data, "all") else data
        return [self.child.to_representation(each) for each in found]  # type: ignore[attr-defined]


def cacheable_serializer(cls: Any) -> Any:
    """The class, whose output is cached from now on."""
    return type(cls.__name__, (CacheableSerializerMixin, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__,
                                                               "__qualname__": cls.__qualname__})  # fmt: skip
