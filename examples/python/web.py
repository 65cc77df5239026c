"""A FastAPI application whose pages are cached until what they show has changed. Run: uvicorn web:app

Prints, run by itself:
"""
#   {'id': 1, 'text': 'milk'} computed 1
#   {'id': 1, 'text': 'milk'} computed 1
#   204
#   {'id': 1, 'text': 'bread'} computed 2
#   404

from fastapi import FastAPI, HTTPException

from zoocache import cacheable, invalidate_async

app = FastAPI()
notes = {1: "milk"}
computed = 0


@cacheable(deps=lambda note: [f"note:{note}"], negative_ttl=5)
async def load(note: int) -> dict | None:
    global computed
    computed += 1
    return {"id": note, "text": notes[note]} if note in notes else None


@app.get("/notes/{note}")
async def read(note: int) -> dict:
    found = await load(note)
    if found is None:
        raise HTTPException(404)
    return found


@app.put("/notes/{note}", status_code=204)
async def write(note: int, text: str) -> None:
    notes[note] = text
    await invalidate_async(f"note:{note}")


if __name__ == "__main__":
    from fastapi.testclient import TestClient

    client = TestClient(app)
    print(client.get("/notes/1").json(), "computed", computed)
    print(client.get("/notes/1").json(), "computed", computed)
    print(client.put("/notes/1?text=bread").status_code)
    print(client.get("/notes/1").json(), "computed", computed)
    print(client.get("/notes/2").status_code)
