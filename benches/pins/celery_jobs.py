"""Celery: the application, for `celery -A celery_jobs worker`; started itself, the client that gives it tasks until the time is over.

The server is in PINS_PORT, PINS_CA and PINS_PASSWORD, the time in PINS_SECONDS.
"""

import json
import os
import threading
import time
from urllib.parse import quote

import celery
from celery import Celery, chord, group

URL = (
    f"rediss://:{quote(os.environ['PINS_PASSWORD'], safe='')}@127.0.0.1:{os.environ['PINS_PORT']}/0"
    f"?ssl_cert_reqs=required&ssl_ca_certs={os.environ['PINS_CA']}"
)
PATIENCE = 30
CALLERS = 8

app = Celery("celery_jobs", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=4, result_expires=60, task_acks_late=True)


@app.task
def add(one, other):
    return one + other


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True)
def second_try(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0.5)
    return self.request.retries


def main():
    done, errors = [], []

    def expect(got, wanted):
        if got != wanted:
            errors.append(f"got {got!r} instead of {wanted!r}"[:200])

    def call(me):
        turn = 0
        while time.monotonic() < end:
            turn += 1
            try:
                expect(add.delay(me, turn).get(timeout=PATIENCE), me + turn)
                if turn % 4 == 0:
                    expect(group(add.s(n, n) for n in range(5))().get(timeout=PATIENCE), [0, 2, 4, 6, 8])
                if turn % 8 == 1:
                    expect(chord(add.s(n, 1) for n in range(4))(total.s()).get(timeout=PATIENCE), 10)
                if turn % 8 == 2:
                    expect(second_try.delay().get(timeout=PATIENCE), 1)
                if turn % 8 == 3:
                    expect(add.apply_async((me, 1), countdown=0.5).get(timeout=PATIENCE), me + 1)
                done.append(turn)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}"[:200])
            time.sleep(0.05)

    # The workers may be starting still: the first answer is waited for longer.
    add.delay(1, 1).get(timeout=PATIENCE * 2)
    end = time.monotonic() + float(os.environ["PINS_SECONDS"])
    callers = [threading.Thread(target=call, args=(me,)) for me in range(CALLERS)]
    for caller in callers:
        caller.start()
    while time.monotonic() < end:
        answers = app.control.inspect(timeout=PATIENCE, limit=2).ping() or {}
        expect(sorted(answer["ok"] for answer in answers.values()), ["pong", "pong"])
        time.sleep(0.5)
    for caller in callers:
        caller.join()
    print(json.dumps({"done": len(done), "errors": errors, "version": f"Celery {celery.__version__}"}))


if __name__ == "__main__":
    main()
