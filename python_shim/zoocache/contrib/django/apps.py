"""The application: the default cache is as settings.ZOOCACHE says from the start on."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["ZooCacheConfig"]


class ZooCacheConfig(AppConfig):  # type: ignore[misc]
    """What INSTALLED_APPS names."""

    name = "zoocache.contrib.django"
    label = "zoocache"
    verbose_name = "zoocache"

    def ready(self) -> None:
        from zoocache.contrib.django.connection import configure

        configure()
