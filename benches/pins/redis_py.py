"""One kind of traffic of redis-py's asyncio client, until the time is over. Argument: which. Prints one line of JSON at the end.

The server is in PINS_PORT, PINS_CA and PINS_PASSWORD, the time in PINS_SECONDS. Every reply is compared with what was written, and
anything unexpected is an error.
"""

import asyncio
import json
import os
import sys
import time

import redis
import redis.asyncio as aio

SECONDS = float(os.environ["PINS_SECONDS"])
PAUSE = 0.1  # of each task between two rounds: what keeps the load modest
done = 0
errors = []


def client(**more):
    return aio.Redis(
        host="127.0.0.1", port=int(os.environ["PINS_PORT"]), password=os.environ["PINS_PASSWORD"], ssl=True, ssl_ca_certs=os.environ["PINS_CA"],
        decode_responses=True, **more,
    )


def expect(got, wanted):
    if got != wanted:
        errors.append(f"got {got!r} instead of {wanted!r}"[:200])


async def until(end, work):
    """Calls `work(round)` again and again; an exception is an error, and the next round is tried all the same."""
    global done
    turn = 0
    while time.monotonic() < end:
        turn += 1
        try:
            await work(turn)
            done += 1
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}"[:200])
        await asyncio.sleep(PAUSE)


async def cache(pool, end):
    """A web application's: single commands, pipelines and MULTI pipelines of 50 tasks that share a pool."""

    async def work(me, turn):
        nonce = f"{me}-{turn}"
        expect(await pool.set(f"cache:{me}", nonce, ex=60), True)
        expect(await pool.get(f"cache:{me}"), nonce)
        await pool.hset(f"user:{me}", mapping={"name": nonce, "visits": turn})
        expect(await pool.hgetall(f"user:{me}"), {"name": nonce, "visits": str(turn)})
        expect(await pool.mget(f"cache:{me}", "nothing"), [nonce, None])
        async with pool.pipeline(transaction=False) as pipe:
            for n in range(10):
                pipe.set(f"cache:{me}:{n}", nonce, ex=60)
            for n in range(10):
                pipe.get(f"cache:{me}:{n}")
            expect(await pipe.execute(), [True] * 10 + [nonce] * 10)
        async with pool.pipeline(transaction=True) as pipe:
            pipe.delete(f"n:{me}").incr(f"n:{me}").expire(f"n:{me}", 60)
            expect((await pipe.execute())[1:], [1, True])

    await asyncio.gather(*(until(end, lambda turn, me=me: work(me, turn)) for me in range(50)))


async def watch(pool, end):
    """Optimistic locking: WATCH, GET, MULTI, SET, EXEC of 20 tasks, each on a counter of its own."""

    async def work(me, turn):
        async def add(pipe):
            value = int(await pipe.get(f"counter:{me}") or 0)
            pipe.multi()
            pipe.set(f"counter:{me}", value + 1)

        await pool.transaction(add, f"counter:{me}")
        expect(await pool.get(f"counter:{me}"), str(turn))

    await asyncio.gather(*(until(end, lambda turn, me=me: work(me, turn)) for me in range(20)))


async def lock(pool, end):
    """redis-py's own Lock, which is released by a script, of 20 tasks."""

    async def work(me, turn):
        async with pool.lock(f"lock:{me}", timeout=5):
            expect(await pool.set(f"locked:{me}", turn), True)
        expect(await pool.get(f"locked:{me}"), str(turn))

    await asyncio.gather(*(until(end, lambda turn, me=me: work(me, turn)) for me in range(20)))


async def pubsub(pool, end):
    """20 subscribers, half of them to patterns, and 2 publishers; every message must come."""
    ready, heard = [], [0] * 20

    async def listen(me):
        async with pool.pubsub() as mine:
            await (mine.psubscribe("news:*") if me % 2 else mine.subscribe("news:all"))
            while (message := await mine.get_message(timeout=5)) is None or not message["type"].endswith("subscribe"):
                pass
            ready.append(me)
            while heard[me] == 0 or time.monotonic() < end + 1:
                if await mine.get_message(ignore_subscribe_messages=True, timeout=0.5):
                    heard[me] += 1

    async def say(turn):
        await pool.publish("news:all", str(turn))

    listeners = [asyncio.create_task(listen(me)) for me in range(20)]
    while len(ready) < 20 and not any(task.done() for task in listeners):
        await asyncio.sleep(0.05)
    await asyncio.gather(until(end, say), until(end, say))
    for result in await asyncio.gather(*listeners, return_exceptions=True):
        if result is not None:
            errors.append(f"{type(result).__name__}: {result}"[:200])
    expect(heard, [done] * 20)


async def consumers(pool, end):
    """10 consumers of lists (BRPOP), 10 of streams (XREADGROUP), 5 producers; what is produced must be consumed."""
    await pool.xgroup_create("stream", "group", mkstream=True)
    produced, consumed = [0, 0], [0, 0]

    async def pop(turn):
        if await pool.brpop(["jobs:high", "jobs:low"], timeout=1):
            consumed[0] += 1

    async def read(me, turn):
        for _, entries in await pool.xreadgroup("group", str(me), {"stream": ">"}, count=10, block=1000):
            for entry, _ in entries:
                acknowledged = await pool.xack("stream", "group", entry)
                consumed[1] += acknowledged

    async def produce(turn):
        await pool.lpush("jobs:high" if turn % 5 == 0 else "jobs:low", turn)
        produced[0] += 1
        await pool.xadd("stream", {"turn": turn}, maxlen=10_000)
        produced[1] += 1

    # Somewhat longer than the producers, for what is on its way.
    tasks = [until(end + 2, pop) for _ in range(10)]
    tasks += [until(end + 2, lambda turn, me=me: read(me, turn)) for me in range(10)]
    await asyncio.gather(*tasks, *(until(end, produce) for _ in range(5)))
    expect(consumed, produced)


async def main(kind):
    # One connection for each task, and some for what comes on top.
    pool = client(max_connections=64)
    await KINDS[kind](pool, time.monotonic() + SECONDS)
    await pool.aclose()
    print(json.dumps({"done": done, "errors": errors, "version": f"redis-py {redis.__version__}"}))


KINDS = {"cache": cache, "watch": watch, "lock": lock, "pubsub": pubsub, "consumers": consumers}
asyncio.run(main(sys.argv[1]))
