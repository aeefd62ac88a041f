-- What the relay went on past: RabbitMQ had refused it, or not confirmed it, for longer than patience lasts. The relay's
-- position says "confirmed, or given up"; this tells the two apart. One row an hour at the most, however long a queue is full.
CREATE TABLE @schema@.given_up (
    relay          text COLLATE "C" NOT NULL,
    hour           timestamptz NOT NULL,
    first_position bigint NOT NULL,
    last_position  bigint NOT NULL,
    messages       bigint NOT NULL,
    PRIMARY KEY (relay, hour)
);
