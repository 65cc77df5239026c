"""A storage in memory for the tests, and what makes a cache ask it."""

from zoocache.storage import Storage


class Shelf(Storage):
    """Records in a dict."""

    def __init__(self):
        self.records = {}

    def get(self, key):
        return self.records.get(key)

    def put(self, key, record, expires):
        self.records[key] = record

    def delete(self, key):
        self.records.pop(key, None)

    def clear(self):
        self.records.clear()


def evict(cache):
    """As if another process asked: neither the dict nor the library's table has anything."""
    for table in cache.tables():
        table.entries.clear()
