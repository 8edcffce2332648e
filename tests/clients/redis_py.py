"""What applications do with redis-py's asyncio client, through Keyward. Arguments: host, port, CA file; password in KEYWARD_PASSWORD."""

import asyncio
import os
import sys

import redis.asyncio as redis
from redis.exceptions import AuthenticationError, NoPermissionError, ExecAbortError, ResponseError

host, port, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3]
password = os.environ["KEYWARD_PASSWORD"]


def client(protocol, secret=password, **more):
    url = f"rediss://:{secret}@{host}:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={ca}&protocol={protocol}"
    return redis.from_url(url, decode_responses=True, health_check_interval=1, **more)


async def refused(error, call):
    try:
        await call
    except error:
        return
    raise AssertionError(f"{error.__name__} was expected")


async def session(protocol):
    r = client(protocol)
    assert await r.ping()
    assert await r.set("py:a", "1", ex=60)
    assert await r.get("py:a") == "1"
    assert await r.hset("py:h", mapping={"x": "1", "y": "2"}) in (0, 1, 2)
    assert await r.hgetall("py:h") == {"x": "1", "y": "2"}
    async with r.pipeline(transaction=True) as pipe:
        assert (await pipe.delete("py:n").incr("py:n").incr("py:n").execute())[1:] == [1, 2]
    async with r.pipeline(transaction=False) as pipe:
        for n in range(500):
            pipe.echo(str(n))
        assert await pipe.execute() == [str(n) for n in range(500)]
    async with r.pipeline() as pipe:
        await pipe.watch("py:w")
        pipe.multi()
        pipe.set("py:w", "1")
        assert await pipe.execute() == [True]
    async with r.pipeline(transaction=True) as pipe:
        pipe.set("py:never", "1")
        pipe.execute_command("FLUSHALL")
        await refused((NoPermissionError, ExecAbortError), pipe.execute())
    assert await r.get("py:never") is None
    for call in (r.flushall(), r.keys("*"), r.config_get("*"), r.execute_command("DEBUG", "SLEEP", "0")):
        await refused(NoPermissionError, call)
    await refused(ResponseError, r.execute_command("NOSUCHCOMMAND"))
    assert await r.eval("return ARGV[1]", 0, "x") == "x"
    assert await r.register_script("return KEYS[1]")(keys=["py:k"]) == "py:k"
    await r.delete("py:s", "py:l")
    first = await r.xadd("py:s", {"f": "v"})
    read = await r.xread({"py:s": "0"}, block=100)
    assert first in str(read)
    pops = asyncio.create_task(r.blpop("py:l", timeout=5))
    while not any("blpop" in c["cmd"] for c in await r.client_list()):
        await asyncio.sleep(0.01)
    await r.rpush("py:l", "item")
    assert list(await pops) == ["py:l", "item"]
    assert {k async for k in r.scan_iter("py:*")} >= {"py:a", "py:h"}
    async with r.pubsub() as pubsub:
        await pubsub.subscribe("py:chan")
        await pubsub.psubscribe("py:c*")
        got, confirmed = [], 0
        async for message in pubsub.listen():
            if message["type"] in ("subscribe", "psubscribe"):
                confirmed += 1
                if confirmed == 2:
                    # Not before: another connection may be faster than a subscription that is still on its way.
                    assert await r.publish("py:chan", "hello") == 2
            elif message["type"] in ("message", "pmessage"):
                got.append(message["data"])
                if len(got) == 2:
                    break
        assert got == ["hello", "hello"]
        await pubsub.unsubscribe()
        await pubsub.punsubscribe()
    await r.aclose()


async def main():
    for protocol in (2, 3):
        await session(protocol)
    for secret in ("wrong-password-of-a-stranger-0123456789",):
        stranger = client(2, secret)
        await refused(AuthenticationError, stranger.ping())
        await stranger.aclose()
    many = [client(3) for _ in range(40)]
    assert await asyncio.gather(*(c.echo(str(n)) for n, c in enumerate(many))) == [str(n) for n in range(40)]
    await asyncio.gather(*(c.aclose() for c in many))
    print("redis-py", redis.__name__ and __import__("redis").__version__, "ok")


async def in_time():
    # Whatever hangs must say so instead of hanging the whole suite.
    await asyncio.wait_for(main(), timeout=120)


asyncio.run(in_time())
