"""A shop in SQLite: slow questions are cached, and say what they were computed from.

Prints:
"""
#   3 products, worth 60; asked the database 4 times
#   again: 3 products, worth 60; asked 4 times
#   after a price change: 3 products, worth 75; asked 6 times
#   after all: 3 products, worth 75; asked 10 times

import sqlite3

from zoocache import add_deps, cacheable, invalidate

db = sqlite3.connect(":memory:")
db.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, shelf INTEGER, price INTEGER)")
db.executemany("INSERT INTO product VALUES (?, ?, ?)", [(1, 1, 10), (2, 1, 20), (3, 2, 30)])
asked = 0


def query(sql, *values):
    global asked
    asked += 1
    return db.execute(sql, values).fetchall()


@cacheable(deps=lambda product: [f"product:{product}"])
def price(product):
    return query("SELECT price FROM product WHERE id = ?", product)[0][0]


@cacheable
def worth():
    """Depends on the list of products, and on every price that it asks for."""
    add_deps(["products"])
    ids = [row[0] for row in query("SELECT id FROM product")]
    return len(ids), sum(price(product) for product in ids)


def set_price(product, value):
    db.execute("UPDATE product SET price = ? WHERE id = ?", (value, product))
    db.commit()
    invalidate(f"product:{product}")  # after the commit


def say(before=""):
    count, total = worth()
    print(f"{before}{count} products, worth {total}; asked {'the database ' if not before else ''}{asked} times")


say()
say("again: ")
set_price(2, 35)
say("after a price change: ")
invalidate("product", "products")
say("after all: ")
