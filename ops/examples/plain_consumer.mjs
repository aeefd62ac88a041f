#!/usr/bin/env node
// A complete consumer in another language: it uses what relay/README.md documents, and amqplib.
//
//     npm install && node plain_consumer.mjs amqp://guest:guest@localhost/ billing billing.json
//     node plain_consumer.mjs amqp://guest:guest@localhost/ orders orders.json order
//
// It does what plain_consumer.py does, in the same words: see there.

import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import amqplib from "amqplib";

const STORE = "eventstore";
const [url, queue, file, category] = process.argv.slice(2);
if (!file) {
  console.error("usage: plain_consumer.mjs AMQP_URL QUEUE FILE [CATEGORY]");
  process.exit(1);
}
const chain = category ? "previous_in_category" : "previous_position";
const feed = category ? `$category-${category}` : "$all";
let broken = null; // the id of the replay in which a part is known to be missing

// What was handled, kept in a file. Positions are below 2^53 until 2^43 appends were made: numbers will do.
let [history, position, holes] = existsSync(file) ? JSON.parse(readFileSync(file)) : [null, 0, []];

function save() {
  writeFileSync(`${file}.new`, JSON.stringify([history, position, holes]));
  renameSync(`${file}.new`, file); // whole or not at all
}

// Handles what is new in a message, and keeps the place. To be acknowledged when this returns.
function take(exchange, headers, body) {
  if (exchange !== (headers.replayed ? "" : STORE)) {
    // reported by the broker, not the publisher
    console.error(`a message by exchange "${exchange}", which is nobody's: passed over`);
    return;
  }
  if (headers.wire_version !== 1 || headers.store !== STORE) {
    console.error("not a message of this store, or of a newer version: passed over");
    return;
  }
  history ??= headers.history;
  if (headers.history !== history) {
    // a restore, or a failover that lost commits
    console.error(`the store has another past now (${headers.history}): positions kept here mean nothing in it`);
    process.exit(1);
  }
  const last = headers.last_position;
  if (headers.replayed) {
    fill(headers, body);
  } else if (last > position) {
    // else a duplicate: the relay repeats messages after a fault, RabbitMQ unacknowledged ones
    if (headers[chain] > position) {
      // the one comparison
      holes.push([position, headers[chain]]);
      console.error(`a hole: ${replay(position, headers[chain])}`);
    }
    handle(body, position, last);
    position = last;
  }
  save();
}

// Fills a hole further, unless a part of the replay is missing before this message.
function fill(headers, body) {
  if (headers.replay_of !== feed || headers.replay_types) {
    console.error(`skipped a replay of another feed: ${headers.replay_of}`);
    return;
  }
  const last = Boolean(headers.replay_last);
  const reached = last ? headers.replay_end : headers.last_position; // no event follows the last message
  let missing = false;
  for (const hole of holes.filter(([above]) => above < reached)) {
    if (headers.previous_in_replay > hole[0]) {
      // the same comparison, in the replay's own chain
      missing ||= last || headers.previous_in_replay < hole[1];
      continue;
    }
    handle(body, ...hole);
    hole[0] = Math.min(reached, hole[1]);
  }
  holes = holes.filter(([above, upTo]) => above < upTo);
  if (missing && broken !== headers.replay_id) {
    broken = headers.replay_id;
    for (const hole of holes) console.error(`a hole: ${replay(...hole)}`);
  }
}

function handle(body, above, upTo) {
  for (const event of JSON.parse(body)) {
    const at = Number(event.sequence);
    if (at <= above || at > upTo) continue;
    let data = event.data;
    if (event.dataref) data = `too large for a message: to be read from the store, at ${event.dataref}`;
    else if (event.data_base64) data = Buffer.from(event.data_base64, "base64").toString("hex");
    console.log(JSON.stringify({ position: at, stream: event.subject, type: event.type, data }));
  }
}

// The command that fills a hole.
function replay(above, upTo) {
  const chosen = category ? ` --category ${category}` : "";
  return `trunkline replay --to ${queue} --from ${above + 1} --to-position ${upTo}${chosen}`;
}

// As a word of a routing key (a category of more than 64 bytes is cut there, too).
function word(text) {
  return text.replace(/[%.*#]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}

async function consume() {
  const connection = await amqplib.connect(url, { clientProperties: { connection_name: queue } });
  const closed = new Promise((resolve) => connection.once("close", resolve));
  connection.on("error", () => {}); // "close" follows
  const channel = await connection.createChannel();
  channel.on("error", () => connection.close().catch(() => {}));
  await channel.prefetch(100);
  await channel.assertExchange(STORE, "topic", { durable: true });
  await channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "quorum", "x-max-length": 100000 } });
  await channel.bindQueue(queue, STORE, category ? `${word(category)}.#` : "#");
  await channel.consume(queue, (message) => {
    if (message === null) {
      connection.close().catch(() => {}); // the queue was deleted: it is declared again
      return;
    }
    take(message.fields.exchange, message.properties.headers ?? {}, message.content);
    try {
      channel.ack(message);
    } catch {
      // the channel is gone: it comes again, and is a duplicate
    }
  });
  await closed;
}

for (;;) {
  await consume().catch((error) => console.error(`no broker: ${error.message}`));
  await sleep(500); // before the next try
}
