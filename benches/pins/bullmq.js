// BullMQ. Argument: "worker", which works until it is told to end, or "client", which gives it jobs until the time is over and then
// prints one line of JSON. The server is in PINS_PORT, PINS_CA and PINS_PASSWORD, the time in PINS_SECONDS.
"use strict";
const fs = require("fs");
const { FlowProducer, Queue, QueueEvents, Worker } = require("bullmq");

const connection = {
  host: "127.0.0.1",
  port: Number(process.env.PINS_PORT),
  password: process.env.PINS_PASSWORD,
  tls: { ca: fs.readFileSync(process.env.PINS_CA) },
  maxRetriesPerRequest: null,
};
const PATIENCE = 30_000;
const CALLERS = 8;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// "Error:" in a worker's log is what is looked for.
async function worker() {
  const work = async (job) => {
    if (job.name === "second-try" && job.attemptsMade === 0) throw new Error("wanted failure");
    if (job.name === "parent") return Object.values(await job.getChildrenValues()).reduce((a, b) => a + b, 0);
    await job.updateProgress(50);
    return job.data.n * 2;
  };
  const workers = ["mail", "images"].map((name) => new Worker(name, work, { connection, concurrency: 10 }));
  let closing = false;
  for (const each of workers) each.on("error", (error) => closing || console.error("Error:", error.message));
  process.on("SIGTERM", async () => {
    closing = true;
    await Promise.all(workers.map((each) => each.close()));
    process.exit(0);
  });
}

async function client() {
  const errors = [];
  let done = 0;
  let closing = false;
  const note = (error) => closing || errors.push(String(error).slice(0, 200));
  const queues = ["mail", "images"].map((name) => new Queue(name, { connection }));
  const events = ["mail", "images"].map((name) => new QueueEvents(name, { connection }));
  const flows = new FlowProducer({ connection });
  for (const each of [...queues, ...events, flows]) each.on("error", note);
  await Promise.all(events.map((each) => each.waitUntilReady()));
  const kept = { removeOnComplete: 1000, removeOnFail: 1000 };
  const expect = (got, wanted) => got === wanted || note(`got ${got} instead of ${wanted}`);
  const result = (job, which) => job.waitUntilFinished(events[which], PATIENCE);
  // The workers may be starting still.
  await result(await queues[0].add("double", { n: 1 }, kept), 0);
  await queues[0].upsertJobScheduler("each-second", { every: 1000 }, { name: "double", data: { n: 1 }, opts: kept });
  const end = Date.now() + Number(process.env.PINS_SECONDS) * 1000;

  const call = async (me) => {
    for (let turn = 1; Date.now() < end; turn++) {
      const which = turn % 2;
      const queue = queues[which];
      try {
        expect(await result(await queue.add("double", { n: turn }, kept), which), turn * 2);
        if (turn % 8 === 1) {
          const jobs = await queue.addBulk([1, 2, 3].map((n) => ({ name: "double", data: { n }, opts: { ...kept, priority: n } })));
          expect((await Promise.all(jobs.map((job) => result(job, which)))).join(), "2,4,6");
        }
        if (turn % 8 === 2) expect(await result(await queue.add("double", { n: me }, { ...kept, delay: 300 }), which), me * 2);
        if (turn % 8 === 3) {
          const twice = { ...kept, attempts: 2, backoff: { type: "fixed", delay: 300 } };
          expect(await result(await queue.add("second-try", { n: me }, twice), which), me * 2);
        }
        if (turn % 8 === 4) {
          const children = [1, 2, 3].map((n) => ({ name: "double", queueName: "images", data: { n }, opts: kept }));
          const { job } = await flows.add({ name: "parent", queueName: "mail", data: {}, opts: kept, children });
          expect(await result(job, 0), 12);
        }
        if (turn % 8 === 5) await queue.getJobCounts();
        done += 1;
      } catch (error) {
        note(error);
      }
      await sleep(50);
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, (_, me) => call(me)));
  await queues[0].removeJobScheduler("each-second");
  closing = true;
  await Promise.all([...queues, ...events, flows].map((each) => each.close()));
  const version = `BullMQ ${require("bullmq/package.json").version} (ioredis ${require("ioredis/package.json").version})`;
  console.log(JSON.stringify({ done, errors, version }));
}

({ worker, client })[process.argv[2]]().catch((error) => {
  console.error("Error:", error.message);
  process.exit(1);
});
