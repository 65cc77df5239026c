"""The same database for a hundred coroutines that ask at once: one of them asks, the others wait for it.

Prints:
"""
#   100 answers, 1 query
#   100 answers after the change: 1 new query
#   a cancelled caller disturbs nobody: 4 answers

import asyncio
import sqlite3

from zoocache import cacheable, invalidate

db = sqlite3.connect(":memory:", check_same_thread=False)
db.execute("CREATE TABLE stock (item TEXT PRIMARY KEY, amount INTEGER)")
db.execute("INSERT INTO stock VALUES ('pen', 7)")
queries = 0


@cacheable(deps=lambda item: [f"stock:{item}"], ttl=60)
async def amount(item):
    global queries
    queries += 1

    def ask():
        return db.execute("SELECT amount FROM stock WHERE item = ?", (item,)).fetchone()[0]

    return await asyncio.to_thread(ask)


async def main():
    answers = await asyncio.gather(*[amount("pen") for _ in range(100)])
    print(f"{answers.count(7)} answers, {queries} query")
    db.execute("UPDATE stock SET amount = 8")
    invalidate("stock:pen")
    answers = await asyncio.gather(*[amount("pen") for _ in range(100)])
    print(f"{answers.count(8)} answers after the change: {queries - 1} new query")
    invalidate("stock")
    tasks = [asyncio.create_task(amount("pen")) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # the one that asks: another takes over
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    print(f"a cancelled caller disturbs nobody: {answers.count(8)} answers")


asyncio.run(main())
