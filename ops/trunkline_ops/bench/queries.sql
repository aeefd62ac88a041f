-- name: floor_table
-- What a store would be without being one: the same columns, constraints and indexes, and nothing else.
CREATE TABLE public.floor (LIKE eventstore.events INCLUDING ALL)

-- name: floor_insert_one
INSERT INTO public.floor (stream_id, stream_version, category, position, event_id, size, type, metadata, data, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9::text::json, clock_timestamp())

-- name: floor_insert_many
INSERT INTO public.floor (stream_id, stream_version, category, position, event_id, size, type, metadata, data, created_at)
SELECT $1, i.version, $3, i.position, i.event_id, i.size, i.type, i.metadata::json, i.data::json, clock_timestamp()
FROM unnest($2::bigint[], $4::bigint[], $5::uuid[], $6::integer[], $7::text[], $8::text[], $9::text[])
    AS i (version, position, event_id, size, type, metadata, data)

-- name: floor_read_stream
SELECT position, stream_version, event_id, type, data::text, metadata::text, correlation_id, causation_id, created_at, size
FROM eventstore.events WHERE stream_id = $1 AND stream_version >= $2 ORDER BY stream_version LIMIT $3

-- name: floor_read_all
SELECT position, stream_version, event_id, type, data::text, metadata::text, correlation_id, causation_id, created_at, size
FROM eventstore.events WHERE position > $1 ORDER BY position LIMIT $2

-- name: wal
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn

-- name: fill_streams
-- $1 streams, as they stand after all their events. One in 1,000 is of a category of its own.
INSERT INTO eventstore.streams (stream_id, stream, category, version, created_at) OVERRIDING SYSTEM VALUE
SELECT s, CASE WHEN s % 1000 = 1 THEN 'audit-' ELSE 'order-' END || lpad(s::text, 8, '0'),
       CASE WHEN s % 1000 = 1 THEN 'audit' ELSE 'order' END, 100, clock_timestamp()
FROM generate_series(1::bigint, $1::bigint) AS s

-- name: fill_events
-- Events $1 to $2: 100 in each stream, in appends of 10, and those of $5 streams mixed, as in a busy service. $3 is the
-- data, with ten zeros where the number goes; $4 the metadata. Ids grow with time, as UUIDv7 does.
INSERT INTO eventstore.events
    (position, stream_id, stream_version, created_at, event_id, size, category, type, metadata, data)
SELECT (1 + n / 10) * 1024 + n % 10, s.id, n / ($5::bigint * 10) % 10 * 10 + n % 10 + 1,
       '2025-01-01Z'::timestamptz + n * interval '1 ms',
       (lpad(to_hex(1735689600000 + n), 12, '0') || '7' || left(md5(n::text), 3) || '8' || right(md5(n::text), 15))::uuid,
       octet_length($3::text) + octet_length($4::text), CASE WHEN s.id % 1000 = 1 THEN 'audit' ELSE 'order' END,
       'OrderPlaced', $4::text::json, replace($3::text, '0000000000', lpad(n::text, 10, '0'))::json
FROM generate_series($1::bigint, $2::bigint) AS n
CROSS JOIN LATERAL (SELECT 1 + n / ($5 * 100) * $5 + n / 10 % $5 AS id) AS s

-- name: after_filling
-- The sequences stand where they would.
SELECT setval('eventstore.blocks', 1 + $1::bigint / 10),
       setval(pg_get_serial_sequence('eventstore.streams', 'stream_id'), (SELECT max(stream_id) FROM eventstore.streams))

-- name: fill_recorder
-- The same events for the library `eventsourcing`, in the order in which they were appended.
INSERT INTO public.stored_events (originator_id, originator_version, topic, state)
SELECT md5(stream_id::text)::uuid, stream_version, type, convert_to(data::text || metadata::text, 'UTF8')
FROM eventstore.events ORDER BY position

-- name: projection_tables
-- A projection of one row for each event, and what takes the place of a subscription's row for the floor.
CREATE TABLE public.projection (subscriber text, position bigint, customer text, PRIMARY KEY (subscriber, position));
CREATE TABLE public.checkpoints (subscriber text PRIMARY KEY, position bigint NOT NULL) WITH (fillfactor = 50)

-- name: project
INSERT INTO public.projection (subscriber, position, customer) VALUES ($1, $2, $3)

-- name: floor_begin
INSERT INTO public.checkpoints (subscriber, position) VALUES ($1, 0)

-- name: floor_checkpoint
UPDATE public.checkpoints SET position = $2 WHERE subscriber = $1 AND position < $2

-- name: positions
SELECT position FROM eventstore.events ORDER BY position
