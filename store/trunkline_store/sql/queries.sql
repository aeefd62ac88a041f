-- name: schema_there
-- Null where there is no store.
SELECT to_regclass('@schema@.schema_migrations')

-- name: schema_version
SELECT max(version) FROM @schema@.schema_migrations

-- name: note_migration
INSERT INTO @schema@.schema_migrations (version, name) VALUES ($1, $2)

-- name: make_store
INSERT INTO @schema@.store (data_type, content_type) VALUES ($1, $2)

-- name: data_type
SELECT data_type FROM @schema@.store

-- name: store
-- What the store is: asked once, when it is opened.
SELECT s.store_id, s.data_type, s.content_type, s.batch_count, s.batch_bytes, @schema@.history_v1() AS history,
       (SELECT seqcache FROM pg_sequence WHERE seqrelid = '@schema@.blocks'::regclass) AS sequence_cache
FROM @schema@.store AS s

-- name: history
SELECT @schema@.history_v1()

-- name: append
SELECT * FROM @schema@.append_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

-- name: safe_position
-- In a statement of its own: rows may only be read in a later one.
SELECT @schema@.safe_position_v1()

-- name: poll
-- How far may be read, and in which history: one question for everybody who follows.
SELECT @schema@.safe_position_v1() AS safe, @schema@.history_v1() AS history

-- name: stream_state
-- Why a read of a stream gave nothing.
SELECT version, deleted_at IS NOT NULL AS deleted FROM @schema@.streams WHERE stream = $1

-- name: read_stream_forward
-- Needs no safe position: a stream's versions become visible in their order, under the row lock.
SELECT e.position, $1::text AS stream, e.stream_version, e.event_id, e.type, e.data::text, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM @schema@.events AS e
WHERE e.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1 AND deleted_at IS NULL)
  AND e.stream_version >= $2
ORDER BY e.stream_version LIMIT $3

-- name: read_all_forward
-- From position $1 up to the safe position $2: at most $3 events, and none that begins after $4 bytes of data.
SELECT e.position, s.stream, e.stream_version, e.event_id, e.type, e.data::text, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM (SELECT *, sum(size) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - size AS bytes_before
      FROM @schema@.events WHERE position >= $1 AND position <= $2 ORDER BY position LIMIT $3) AS e
JOIN @schema@.streams AS s USING (stream_id)
WHERE e.bytes_before < $4
ORDER BY e.position

-- name: last_position
-- The last event at or below a position; 0 where there is none.
SELECT coalesce((SELECT position FROM @schema@.events WHERE position <= $1 ORDER BY position DESC LIMIT 1), 0)

-- name: relay_page
-- For the wire: text where text is sent, and no data of an event above $5 bytes, which travels as a reference.
SELECT e.position, s.stream, e.category, e.stream_version, e.event_id::text, e.type, e.size,
       CASE WHEN e.size <= $5 THEN e.data::text END AS data, e.metadata::text,
       e.correlation_id, e.causation_id, e.traceparent,
       to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time
FROM (SELECT *, sum(least(size, $5)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - least(size, $5) AS bytes_before
      FROM @schema@.events WHERE position >= $1 AND position <= $2 ORDER BY position LIMIT $3) AS e
JOIN @schema@.streams AS s USING (stream_id)
WHERE e.bytes_before < $4
ORDER BY e.position

-- name: previous_in_category
-- The last position below $2[i] in category $1[i], for each i; 0 where there is none.
SELECT coalesce((SELECT e.position FROM @schema@.events AS e
                 WHERE e.category = w.category AND e.position < w.position ORDER BY e.position DESC LIMIT 1), 0) AS previous
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w (category, position, ord) ORDER BY w.ord

-- name: previous_in_stream
-- The position of the event before version $2[i] of stream $1[i], for each i; 0 where there is none.
SELECT coalesce((SELECT e.position FROM @schema@.events AS e JOIN @schema@.streams AS s USING (stream_id)
                 WHERE s.stream = w.stream AND e.stream_version < w.version ORDER BY e.stream_version DESC LIMIT 1), 0) AS previous
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w (stream, version, ord) ORDER BY w.ord

-- name: acquire_lease
-- Takes a lease that is free, expired, the caller's own, or impossibly far in the future (the clock was set back).
INSERT INTO @schema@.leases AS l (name, owner, epoch, length, until)
VALUES ($1, $2, 1, $3::interval, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE
    SET owner = excluded.owner, epoch = l.epoch + 1, length = excluded.length, until = clock_timestamp() + $3::interval
    WHERE l.until < clock_timestamp() OR l.until > clock_timestamp() + l.length OR l.owner = excluded.owner
RETURNING epoch

-- name: renew_lease
-- Also after it ran out, as long as nobody took it: a database that was away has not replaced anybody.
UPDATE @schema@.leases SET until = clock_timestamp() + length
WHERE name = $1 AND owner = $2 AND epoch = $3 RETURNING epoch

-- name: release_lease
UPDATE @schema@.leases SET until = '-infinity' WHERE name = $1 AND owner = $2 AND epoch = $3

-- name: see_lease
SELECT owner, epoch, until FROM @schema@.leases WHERE name = $1

-- name: fence_relay
-- The new leader shuts its predecessor out, and learns where to go on.
INSERT INTO @schema@.relays AS r (name, position, owner, epoch) VALUES ($1, $4, $2, $3)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = excluded.epoch WHERE r.epoch <= excluded.epoch
RETURNING position

-- name: record_relay
-- Only the leader of this epoch, and only in the history in which the position was confirmed.
UPDATE @schema@.relays
SET position = greatest(position, $4), safe_position = greatest(safe_position, $5), updated_at = clock_timestamp()
WHERE name = $1 AND owner = $2 AND epoch = $3 AND @schema@.history_v1() = $6 RETURNING position

-- name: see_relay
SELECT position, safe_position, owner, epoch, updated_at FROM @schema@.relays WHERE name = $1

-- name: create_subscription
-- The row, made on the first subscribe; $3 counts only then.
WITH made AS (
    INSERT INTO @schema@.subscriptions (name, feed, checkpoint) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO NOTHING RETURNING subscription_id, feed, checkpoint)
SELECT subscription_id, feed, checkpoint FROM made
UNION ALL SELECT subscription_id, feed, checkpoint FROM @schema@.subscriptions WHERE name = $1
LIMIT 1

-- name: fence_subscription
-- The new owner shuts its predecessor out, and learns where to go on.
UPDATE @schema@.subscriptions SET owner = $2, epoch = $3
WHERE subscription_id = $1 AND epoch <= $3 RETURNING checkpoint

-- name: checkpoint
-- Moves forward only, and only for the owner of this epoch, in the history in which the events were read. No row: the
-- subscription is somebody else's, or gone, or the past is another one.
UPDATE @schema@.subscriptions SET checkpoint = greatest(checkpoint, $4), updated_at = clock_timestamp()
WHERE subscription_id = $1 AND owner = $2 AND epoch = $3 AND @schema@.history_v1() = $5 RETURNING checkpoint

-- name: see_subscription
SELECT subscription_id, feed, checkpoint, owner, epoch, updated_at FROM @schema@.subscriptions WHERE name = $1
