-- name: schema_there
-- Null where there is no store: others have a table schema_migrations as well, but not this sequence.
SELECT to_regclass('@schema@.blocks')

-- name: others_there
-- Relations in the schema that are not the store's.
SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace('@schema@') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND (to_regclass('@schema@.blocks') IS NULL
       OR c.relname NOT IN ('schema_migrations', 'store', 'streams', 'events', 'links', 'leases', 'subscriptions',
                            'relays', 'snapshots'))

-- name: lock_schema
-- Who makes, changes or removes a schema does it alone, until the end of the transaction. The class is "trkl".
SELECT pg_advisory_xact_lock(1953655660, hashtext($1))

-- name: schema_version
SELECT max(version) FROM @schema@.schema_migrations

-- name: applied_migrations
SELECT version, name, migrated_at FROM @schema@.schema_migrations ORDER BY version

-- name: note_migration
INSERT INTO @schema@.schema_migrations (version, name) VALUES ($1, $2)

-- name: make_store
INSERT INTO @schema@.store (data_type, content_type) VALUES ($1, $2)

-- name: count_roles
SELECT count(*) FROM pg_roles WHERE rolname = ANY ($1::text[])

-- name: kept_at_reset
SELECT data_type, content_type, batch_count, batch_bytes FROM @schema@.store

-- name: keep_at_reset
UPDATE @schema@.store SET batch_count = $1, batch_bytes = $2

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
SELECT * FROM @schema@.append_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: append_many
SELECT * FROM @schema@.append_many_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- name: link
SELECT * FROM @schema@.link_v1($1, $2, $3)

-- name: delete
SELECT * FROM @schema@.delete_v1($1, $2)

-- name: hard_delete
SELECT * FROM @schema@.hard_delete_v1($1, $2)

-- name: stream_info
SELECT stream_id, stream, version, created_at, deleted_at FROM @schema@.streams WHERE stream = $1

-- name: all_info
-- `$all` as if it were a stream: its version is the last position.
SELECT 0::bigint AS stream_id, '$all' AS stream,
       coalesce((SELECT max(position) FROM @schema@.events), 0) AS version, created_at, NULL::timestamptz AS deleted_at
FROM @schema@.store

-- name: paginate_streams
-- Streams, and `$all` beside them, whose name holds $1 (empty: all of them). @sort@ is one of a few in streams.py.
WITH matching AS (
    SELECT stream_id, stream, version, created_at, deleted_at FROM (
        SELECT stream_id, stream, version, created_at, deleted_at FROM @schema@.streams
        UNION ALL
        SELECT 0, '$all', coalesce((SELECT max(position) FROM @schema@.events), 0), created_at, NULL FROM @schema@.store
    ) AS everything WHERE $1 = '' OR position($1 IN stream) > 0)
SELECT total.count, page.*
FROM (SELECT count(*) FROM matching) AS total
LEFT JOIN LATERAL (SELECT * FROM matching ORDER BY @sort@, stream_id LIMIT $2 OFFSET $3) AS page ON true

-- name: record_snapshot
INSERT INTO @schema@.snapshots AS s (source, version, type, data, metadata) VALUES ($1, $2, $3, $4::@data_param@::@data_type@, $5::text::json)
ON CONFLICT (source) DO UPDATE
    SET version = excluded.version, type = excluded.type, data = excluded.data, metadata = excluded.metadata

-- name: read_snapshot
SELECT source, version, type, data@data_out@, metadata@data_out@, created_at FROM @schema@.snapshots WHERE source = $1

-- name: delete_snapshot
DELETE FROM @schema@.snapshots WHERE source = $1

-- name: safe_position
-- In a statement of its own: rows may only be read in a later one.
SELECT @schema@.safe_position_v1()

-- name: poll
-- How far may be read, and in which history: one question for everybody who follows.
SELECT @schema@.safe_position_v1() AS safe, @schema@.history_v1() AS history

-- name: stream_state
-- Why a read of a stream gave nothing of its own.
SELECT version, deleted_at IS NOT NULL AS deleted,
       (SELECT l.stream_version FROM @schema@.links AS l WHERE l.stream_id = s.stream_id
        ORDER BY l.stream_version LIMIT 1) IS NOT NULL AS linked
FROM @schema@.streams AS s WHERE stream = $1

-- name: read_stream_forward
-- Its own events, and whether there are also links into it (ORDER BY: else an empty table would be scanned, and the plan
-- kept when it has filled). Needs no safe position: a stream's versions become visible in their order, under the row lock.
SELECT e.position, $1::text AS stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size,
       (SELECT stream_version FROM @schema@.links
        WHERE stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1)
        ORDER BY stream_version LIMIT 1) IS NOT NULL AS linked
FROM @schema@.events AS e
WHERE e.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1 AND deleted_at IS NULL)
  AND e.stream_version >= $2
ORDER BY e.stream_version LIMIT $3

-- name: read_stream_backward
SELECT e.position, $1::text AS stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size,
       (SELECT stream_version FROM @schema@.links
        WHERE stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1)
        ORDER BY stream_version LIMIT 1) IS NOT NULL AS linked
FROM @schema@.events AS e
WHERE e.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1 AND deleted_at IS NULL)
  AND e.stream_version <= $2
ORDER BY e.stream_version DESC LIMIT $3

-- name: read_linked_stream_forward
-- Its own events, and those linked into it: asked only where there are links, for it takes half as long again.
SELECT * FROM (
    (SELECT e.position, $1::text AS stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
            e.correlation_id, e.causation_id, e.created_at, e.size, e.stream_version AS number, e.position AS feed_position
     FROM @schema@.events AS e
     WHERE e.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1 AND deleted_at IS NULL)
       AND e.stream_version >= $2
     ORDER BY e.stream_version LIMIT $3)
    UNION ALL
    (SELECT e.position, o.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
            e.correlation_id, e.causation_id, e.created_at, e.size, l.stream_version AS number, l.feed_position
     FROM @schema@.links AS l
     JOIN @schema@.events AS e ON e.position = l.position
     CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS o
     WHERE l.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1 AND deleted_at IS NULL)
       AND l.stream_version >= $2
     ORDER BY l.stream_version LIMIT $3)
) AS read ORDER BY number LIMIT $3

-- name: read_linked_stream_backward
SELECT * FROM (
    (SELECT e.position, $1::text AS stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
            e.correlation_id, e.causation_id, e.created_at, e.size, e.stream_version AS number, e.position AS feed_position
     FROM @schema@.events AS e
     WHERE e.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1 AND deleted_at IS NULL)
       AND e.stream_version <= $2
     ORDER BY e.stream_version DESC LIMIT $3)
    UNION ALL
    (SELECT e.position, o.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
            e.correlation_id, e.causation_id, e.created_at, e.size, l.stream_version AS number, l.feed_position
     FROM @schema@.links AS l
     JOIN @schema@.events AS e ON e.position = l.position
     CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS o
     WHERE l.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1 AND deleted_at IS NULL)
       AND l.stream_version <= $2
     ORDER BY l.stream_version DESC LIMIT $3)
) AS read ORDER BY number DESC LIMIT $3

-- name: read_all_forward
-- From position $1 up to the safe position $2: at most $3 events, and none that begins after $4 bytes of data. The
-- OFFSET keeps the planner from a join with all streams, which it likes while it knows nothing of a young table.
SELECT e.position, s.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM (SELECT *, sum(size) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - size AS bytes_before
      FROM @schema@.events WHERE position >= $1 AND position <= $2 ORDER BY position LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE e.bytes_before < $4
ORDER BY e.position

-- name: read_all_backward
-- From position $1 (or the safe position $2, if that is lower) down.
SELECT e.position, s.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM (SELECT *, sum(size) OVER (ORDER BY position DESC ROWS UNBOUNDED PRECEDING) - size AS bytes_before
      FROM @schema@.events WHERE position <= least($1::bigint, $2::bigint) ORDER BY position DESC LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE e.bytes_before < $4
ORDER BY e.position DESC

-- name: read_category_forward
-- As read_all_forward, of category $5.
SELECT e.position, s.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM (SELECT *, sum(size) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - size AS bytes_before
      FROM @schema@.events WHERE category = $5 AND position >= $1 AND position <= $2 ORDER BY position LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE e.bytes_before < $4
ORDER BY e.position

-- name: page_all
-- As read_all_forward, in its barest form: streams by their ids, and nothing of an event above $4 bytes but that it is
-- there.
SELECT e.position, e.stream_id, e.stream_version, e.event_id, e.type,
       CASE WHEN e.size <= $4 THEN e.data@data_out@ END AS data, CASE WHEN e.size <= $4 THEN e.metadata::text END AS metadata,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM @schema@.events AS e WHERE e.position >= $1 AND e.position <= $2 ORDER BY e.position LIMIT $3

-- name: page_category
-- As page_all, of category $5.
SELECT e.position, e.stream_id, e.stream_version, e.event_id, e.type,
       CASE WHEN e.size <= $4 THEN e.data@data_out@ END AS data, CASE WHEN e.size <= $4 THEN e.metadata::text END AS metadata,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM @schema@.events AS e WHERE e.category = $5 AND e.position >= $1 AND e.position <= $2 ORDER BY e.position LIMIT $3

-- name: stream_names
SELECT i.stream_id, s.stream FROM unnest($1::bigint[]) AS i (stream_id)
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = i.stream_id OFFSET 0) AS s

-- name: last_position
-- The last event at or below a position; 0 where there is none.
SELECT coalesce((SELECT position FROM @schema@.events WHERE position <= $1 ORDER BY position DESC LIMIT 1), 0)

-- name: last_feed_position
-- As last_position, links too.
SELECT greatest((SELECT position FROM @schema@.events WHERE position <= $1 ORDER BY position DESC LIMIT 1),
                (SELECT feed_position FROM @schema@.links WHERE feed_position <= $1 ORDER BY feed_position DESC LIMIT 1), 0)

-- name: relay_page
-- For the wire: text where text is sent, and no data of an event above $5 bytes, which travels as a reference. Beside
-- each event, whether there are links in the range as well: mostly there are none, and they need not be asked for.
SELECT e.position, s.stream, e.category, e.stream_version, e.event_id::text, e.type, e.size,
       CASE WHEN e.size <= $5 THEN e.data@data_out@ END AS data, e.metadata::text,
       e.correlation_id, e.causation_id, e.traceparent,
       to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time,
       (SELECT feed_position FROM @schema@.links WHERE feed_position >= $1 AND feed_position <= $2
        ORDER BY feed_position LIMIT 1) IS NOT NULL AS links
FROM (SELECT *, sum(least(size, $5)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - least(size, $5) AS bytes_before
      FROM @schema@.events WHERE position >= $1 AND position <= $2 ORDER BY position LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE e.bytes_before < $4
ORDER BY e.position

-- name: relay_links
-- As relay_page, of links: first where they stand, at last the event's own place.
SELECT e.feed_position AS position, t.stream, t.category, e.number AS stream_version, e.event_id::text, e.type, e.size,
       CASE WHEN e.size <= $5 THEN e.data@data_out@ END AS data, e.metadata::text,
       e.correlation_id, e.causation_id, e.traceparent,
       to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time,
       e.position AS own_position, s.stream AS own_stream, e.stream_version AS own_version
FROM (SELECT l.feed_position, l.stream_id AS target_id, l.stream_version AS number, e.*,
             sum(least(e.size, $5)) OVER (ORDER BY l.feed_position ROWS UNBOUNDED PRECEDING) - least(e.size, $5)
                 AS bytes_before
      FROM (SELECT * FROM @schema@.links
            WHERE feed_position >= $1 AND feed_position <= $2 ORDER BY feed_position LIMIT $3) AS l
      CROSS JOIN LATERAL (SELECT * FROM @schema@.events WHERE position = l.position OFFSET 0) AS e) AS e
CROSS JOIN LATERAL (SELECT stream, category FROM @schema@.streams WHERE stream_id = e.target_id OFFSET 0) AS t
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE e.bytes_before < $4
ORDER BY e.feed_position

-- name: replay_category
-- As relay_page, of category $6.
SELECT e.position, s.stream, e.category, e.stream_version, e.event_id::text, e.type, e.size,
       CASE WHEN e.size <= $5 THEN e.data@data_out@ END AS data, e.metadata::text,
       e.correlation_id, e.causation_id, e.traceparent,
       to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time
FROM (SELECT *, sum(least(size, $5)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - least(size, $5) AS bytes_before
      FROM @schema@.events
      WHERE category = $6 AND position >= $1 AND position <= $2
      ORDER BY position LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE e.bytes_before < $4
ORDER BY e.position

-- name: replay_stream
-- As relay_page, of stream $6, and from version $1 on: in a stream, the versions' order is the positions'.
SELECT e.position, s.stream, e.category, e.stream_version, e.event_id::text, e.type, e.size,
       CASE WHEN e.size <= $5 THEN e.data@data_out@ END AS data, e.metadata::text,
       e.correlation_id, e.causation_id, e.traceparent,
       to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time
FROM (SELECT *, sum(least(size, $5)) OVER (ORDER BY stream_version ROWS UNBOUNDED PRECEDING) - least(size, $5) AS bytes_before
      FROM @schema@.events
      WHERE stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $6) AND stream_version >= $1
      ORDER BY stream_version LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE e.bytes_before < $4 AND e.position <= $2
ORDER BY e.stream_version

-- name: previous_in_category
-- The last position below $2[i] in category $1[i], for each i; 0 where there is none.
SELECT coalesce((SELECT e.position FROM @schema@.events AS e
                 WHERE e.category = w.category AND e.position < w.position ORDER BY e.position DESC LIMIT 1), 0) AS previous
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w (category, position, ord) ORDER BY w.ord

-- name: previous_in_stream
-- The position of the event or link before version $2[i] of stream $1[i], for each i; 0 where there is none. In a
-- stream, positions grow as versions do.
SELECT greatest((SELECT e.position FROM @schema@.events AS e
                 WHERE e.stream_id = s.stream_id AND e.stream_version < w.version ORDER BY e.stream_version DESC LIMIT 1),
                (SELECT l.feed_position FROM @schema@.links AS l
                 WHERE l.stream_id = s.stream_id AND l.stream_version < w.version ORDER BY l.stream_version DESC LIMIT 1),
                0) AS previous
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w (stream, version, ord)
LEFT JOIN LATERAL (SELECT stream_id FROM @schema@.streams WHERE stream = w.stream OFFSET 0) AS s ON true
ORDER BY w.ord

-- name: acquire_lease
-- Takes a lease that is free, expired, the caller's own, or impossibly far in the future (the clock was set back).
INSERT INTO @schema@.leases AS l (name, owner, epoch, length, until)
VALUES ($1, $2, 1, $3::interval, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE
    SET owner = excluded.owner, epoch = l.epoch + 1, length = excluded.length, until = clock_timestamp() + $3::interval
    WHERE l.until < clock_timestamp() OR l.until > clock_timestamp() + 2 * l.length OR l.owner = excluded.owner
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

-- name: list_subscriptions
-- With $1, that one only. `behind` is counted up to 10,000; written as a constant, the planner scans the table for it.
SELECT s.name, s.feed, s.checkpoint, CASE WHEN l.until >= clock_timestamp() THEN l.owner END AS owner, s.epoch,
       s.created_at, s.updated_at,
       (SELECT count(*) FROM (SELECT FROM @schema@.events AS e WHERE e.position > s.checkpoint
                              ORDER BY e.position LIMIT (SELECT 10000)) AS ahead) AS behind
FROM @schema@.subscriptions AS s
LEFT JOIN @schema@.leases AS l ON l.name = 'subscription ' || s.subscription_id
WHERE $1::text IS NULL OR s.name = $1
ORDER BY s.name

-- name: delete_subscription
-- A new one of the same name has another id, which no former owner's guard fits.
WITH gone AS (DELETE FROM @schema@.subscriptions WHERE name = $1 RETURNING subscription_id)
DELETE FROM @schema@.leases WHERE name IN (SELECT 'subscription ' || subscription_id FROM gone)

-- name: reset_subscription
-- The one who resets becomes its owner for a moment, in an epoch of his own: no guard of a former owner fits.
WITH target AS (SELECT subscription_id FROM @schema@.subscriptions WHERE name = $1),
taken AS (
    INSERT INTO @schema@.leases AS l (name, owner, epoch, length, until)
    SELECT 'subscription ' || subscription_id, gen_random_uuid(), 1, '0', '-infinity' FROM target
    ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = l.epoch + 1, until = excluded.until
    RETURNING l.owner, l.epoch)
UPDATE @schema@.subscriptions AS s
SET checkpoint = $2, owner = taken.owner, epoch = taken.epoch, updated_at = clock_timestamp()
FROM target, taken WHERE s.subscription_id = target.subscription_id RETURNING s.subscription_id
