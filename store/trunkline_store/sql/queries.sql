-- name: schema_there
-- Null where there is no store: others have a table schema_migrations as well, but not this sequence.
SELECT to_regclass('@schema@.blocks')

-- name: others_there
-- Relations in the schema that are not the store's.
SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace('@schema@')::oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND (to_regclass('@schema@.blocks') IS NULL
       OR c.relname NOT IN ('schema_migrations', 'store', 'streams', 'events', 'links', 'leases', 'subscriptions',
                            'relays', 'snapshots', 'parked', 'standbys', 'given_up', 'incarnation'))

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

-- name: data_kept
SELECT data_type, content_type FROM @schema@.store

-- name: store
-- What the store is: asked once, when it is opened.
SELECT s.store_id, s.data_type, s.content_type, s.batch_count, s.batch_bytes, @schema@.history_v1() AS history,
       (SELECT seqcache FROM pg_sequence WHERE seqrelid = '@schema@.blocks'::regclass::oid) AS sequence_cache
FROM @schema@.store AS s

-- name: append
SELECT * FROM @schema@.append_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: append_one
SELECT * FROM @schema@.append_one_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

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
-- At most $1 streams, and `$all` beside them, in the order @sort@: streams.py fills in one that an index has. @where@ begins
-- behind the last page, and filters.
SELECT stream_id, stream, version, created_at, deleted_at FROM (
    (SELECT stream_id, stream, category, version, created_at, deleted_at FROM @schema@.streams
     WHERE @where@ ORDER BY @sort@ LIMIT $1)
    UNION ALL
    SELECT * FROM (SELECT 0::bigint AS stream_id, '$all' COLLATE "C" AS stream, '$all' COLLATE "C" AS category,
                          coalesce((SELECT position FROM @schema@.events ORDER BY position DESC LIMIT 1), 0) AS version,
                          created_at, NULL::timestamptz AS deleted_at FROM @schema@.store) AS all_streams
    WHERE @where@) AS page
ORDER BY @sort@ LIMIT $1

-- name: categories
-- At most $2 categories behind $1 (null: from the first one on), found by jumping from one to the next in their index. For
-- each, counts of its streams, of the deleted ones, and of appended events and links. They cover a category's first 10,000
-- streams, or fewer where there are many categories, so that a page reads half a million at most.
WITH RECURSIVE names AS (
    SELECT (CASE WHEN $1::text IS NULL THEN (SELECT category FROM @schema@.streams ORDER BY category LIMIT 1)
            ELSE (SELECT category FROM @schema@.streams WHERE category > $1::text ORDER BY category LIMIT 1)
            END)::text COLLATE "C" AS category, 1 AS number
    UNION ALL
    SELECT (SELECT s.category FROM @schema@.streams AS s WHERE s.category > n.category ORDER BY s.category LIMIT 1)::text
               COLLATE "C", n.number + 1
    FROM names AS n WHERE n.category IS NOT NULL AND n.number < $2::integer)
SELECT n.category, a.streams, a.deleted, a.events, a.streams + a.deleted >= c.most AS or_more
FROM names AS n
CROSS JOIN (SELECT greatest(100, least(10000, 500000 / greatest(1, count(*)))) AS most FROM names) AS c
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE deleted_at IS NULL) AS streams, count(deleted_at) AS deleted,
           coalesce(sum(version), 0)::bigint AS events
    FROM (SELECT version, deleted_at FROM @schema@.streams
          WHERE (category, stream) > (n.category, '') AND (category, stream) < (n.category, n.category || '.')
          ORDER BY category, stream LIMIT c.most) AS first) AS a
WHERE n.category IS NOT NULL ORDER BY n.category

-- name: record_snapshot
INSERT INTO @schema@.snapshots AS s (source, version, type, data, metadata) VALUES ($1, $2, $3, $4::@data_param@::@data_type@, $5::text::json)
ON CONFLICT (source) DO UPDATE
    SET version = excluded.version, type = excluded.type, data = excluded.data, metadata = excluded.metadata

-- name: read_snapshot
SELECT source, version, type, data@data_out@, metadata::text, created_at FROM @schema@.snapshots WHERE source = $1

-- name: delete_snapshot
DELETE FROM @schema@.snapshots WHERE source = $1

-- name: safe_position
-- In a statement of its own: rows may only be read in a later one.
SELECT @schema@.safe_position_v1()

-- name: look
-- The safe position and its history, for all readers of pages.
SELECT safe, history FROM @schema@.look_v1($1, $2)

-- name: nudge
-- After an append, in a transaction of its own.
SELECT pg_notify($1, '')

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

-- name: stream_fits_forward
-- How many of a stream's events from version $2 on, at most $3, begin before $4 bytes of data; 1 at least.
SELECT greatest(1, count(*) FILTER (WHERE bytes_before < $4)) FROM (
    SELECT sum(size) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - size AS bytes_before FROM (
        (SELECT e.stream_version AS number, e.size FROM @schema@.events AS e
         WHERE e.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1) AND e.stream_version >= $2
         ORDER BY e.stream_version LIMIT $3)
        UNION ALL
        (SELECT l.stream_version, e.size FROM @schema@.links AS l
         CROSS JOIN LATERAL (SELECT size FROM @schema@.events WHERE position = l.position OFFSET 0) AS e
         WHERE l.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1) AND l.stream_version >= $2
         ORDER BY l.stream_version LIMIT $3)) AS mixed
    ORDER BY number LIMIT $3) AS page

-- name: stream_fits_backward
-- From version $2 down.
SELECT greatest(1, count(*) FILTER (WHERE bytes_before < $4)) FROM (
    SELECT sum(size) OVER (ORDER BY number DESC ROWS UNBOUNDED PRECEDING) - size AS bytes_before FROM (
        (SELECT e.stream_version AS number, e.size FROM @schema@.events AS e
         WHERE e.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1) AND e.stream_version <= $2
         ORDER BY e.stream_version DESC LIMIT $3)
        UNION ALL
        (SELECT l.stream_version, e.size FROM @schema@.links AS l
         CROSS JOIN LATERAL (SELECT size FROM @schema@.events WHERE position = l.position OFFSET 0) AS e
         WHERE l.stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $1) AND l.stream_version <= $2
         ORDER BY l.stream_version DESC LIMIT $3)) AS mixed
    ORDER BY number DESC LIMIT $3) AS page

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
-- From position $1 up to the safe position $2 of the history $5: at most $3 events, and none that begins after $4 bytes of
-- data. The OFFSET keeps the planner from a join with all streams, which it likes while it knows nothing of a young table.
SELECT e.position, s.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM (SELECT *, sum(size) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - size AS bytes_before
      FROM @schema@.events WHERE position >= $1 AND position <= $2 ORDER BY position LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE (SELECT @schema@.same_history_v1($5)) AND e.bytes_before < $4
ORDER BY e.position

-- name: read_all_backward
-- From position $1 (or the safe position $2, if that is lower) down.
SELECT e.position, s.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM (SELECT *, sum(size) OVER (ORDER BY position DESC ROWS UNBOUNDED PRECEDING) - size AS bytes_before
      FROM @schema@.events WHERE position <= least($1::bigint, $2::bigint) ORDER BY position DESC LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE (SELECT @schema@.same_history_v1($5)) AND e.bytes_before < $4
ORDER BY e.position DESC

-- name: read_category_forward
-- As read_all_forward, of category $5. Both bounds and the order are pairs, like the category's index, and no other
-- condition names the category. With an equality beside them, the planner considers the order of positions enough, and
-- scans all events, or the category from its first event on.
SELECT e.position, s.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM (SELECT *, sum(size) OVER (ORDER BY category, position ROWS UNBOUNDED PRECEDING) - size AS bytes_before
      FROM @schema@.events WHERE (category, position) >= ($5, $1) AND (category, position) <= ($5, $2)
      ORDER BY category, position LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE (SELECT @schema@.same_history_v1($6)) AND e.bytes_before < $4
ORDER BY e.category, e.position

-- name: page_all
-- As read_all_forward, in its barest form: streams by their ids, and nothing of an event above $4 bytes but that it is
-- there.
SELECT e.position, e.stream_id, e.stream_version, e.event_id, e.type,
       CASE WHEN e.size <= $4 THEN e.data@data_out@ END AS data, CASE WHEN e.size <= $4 THEN e.metadata::text END AS metadata,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM @schema@.events AS e
WHERE (SELECT @schema@.same_history_v1($5)) AND e.position >= $1 AND e.position <= $2 ORDER BY e.position LIMIT $3

-- name: page_category
-- As page_all, of category $5; the bounds as in read_category_forward.
SELECT e.position, e.stream_id, e.stream_version, e.event_id, e.type,
       CASE WHEN e.size <= $4 THEN e.data@data_out@ END AS data, CASE WHEN e.size <= $4 THEN e.metadata::text END AS metadata,
       e.correlation_id, e.causation_id, e.created_at, e.size
FROM @schema@.events AS e
WHERE (SELECT @schema@.same_history_v1($6)) AND (e.category, e.position) >= ($5, $1) AND (e.category, e.position) <= ($5, $2)
ORDER BY e.category, e.position LIMIT $3

-- name: stream_names
SELECT i.stream_id, s.stream FROM unnest($1::bigint[]) AS i (stream_id)
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = i.stream_id OFFSET 0) AS s
WHERE (SELECT @schema@.same_history_v1($2))

-- name: traceparents
-- In which traces events were appended, where they were.
SELECT e.traceparent FROM unnest($1::bigint[]) AS w (position)
CROSS JOIN LATERAL (SELECT traceparent FROM @schema@.events WHERE position = w.position OFFSET 0) AS e
WHERE e.traceparent IS NOT NULL

-- name: last_position
-- The last event at or below a position; 0 where there is none.
SELECT coalesce((SELECT position FROM @schema@.events WHERE position <= $1 ORDER BY position DESC LIMIT 1), 0)
WHERE (SELECT @schema@.same_history_v1($2))

-- name: last_feed_position
-- As last_position, links too.
SELECT greatest((SELECT position FROM @schema@.events WHERE position <= $1 ORDER BY position DESC LIMIT 1),
                (SELECT feed_position FROM @schema@.links WHERE feed_position <= $1 ORDER BY feed_position DESC LIMIT 1), 0)
WHERE (SELECT @schema@.same_history_v1($2))

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
WHERE (SELECT @schema@.same_history_v1($6)) AND e.bytes_before < $4
ORDER BY e.position

-- name: relay_page_barest
-- As relay_page, in its barest form: streams by their ids, and nothing of an event above $4 bytes but that it is there.
SELECT e.position, e.stream_id, e.category, e.stream_version, e.event_id::text, e.type, e.size,
       CASE WHEN e.size <= $4 THEN e.data@data_out@ END AS data, CASE WHEN e.size <= $4 THEN e.metadata::text END AS metadata,
       e.correlation_id, e.causation_id, e.traceparent,
       to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time,
       (SELECT feed_position FROM @schema@.links WHERE feed_position >= $1 AND feed_position <= $2
        ORDER BY feed_position LIMIT 1) IS NOT NULL AS links
FROM @schema@.events AS e
WHERE (SELECT @schema@.same_history_v1($5)) AND e.position >= $1 AND e.position <= $2 ORDER BY e.position LIMIT $3

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
WHERE (SELECT @schema@.same_history_v1($6)) AND e.bytes_before < $4
ORDER BY e.feed_position

-- name: replay_category
-- As relay_page, of category $6; the bounds as in read_category_forward.
SELECT e.position, s.stream, e.category, e.stream_version, e.event_id::text, e.type, e.size,
       CASE WHEN e.size <= $5 THEN e.data@data_out@ END AS data, e.metadata::text,
       e.correlation_id, e.causation_id, e.traceparent,
       to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time
FROM (SELECT *, sum(least(size, $5)) OVER (ORDER BY category, position ROWS UNBOUNDED PRECEDING) - least(size, $5)
                    AS bytes_before
      FROM @schema@.events WHERE (category, position) >= ($6, $1) AND (category, position) <= ($6, $2)
      ORDER BY category, position LIMIT $3) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE (SELECT @schema@.same_history_v1($7)) AND e.bytes_before < $4
ORDER BY e.category, e.position

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
WHERE (SELECT @schema@.same_history_v1($7)) AND e.bytes_before < $4 AND e.position <= $2
ORDER BY e.stream_version

-- name: replay_links
-- As relay_links, of those into stream $6, and from version $1 on.
SELECT e.feed_position AS position, t.stream, t.category, e.number AS stream_version, e.event_id::text, e.type, e.size,
       CASE WHEN e.size <= $5 THEN e.data@data_out@ END AS data, e.metadata::text,
       e.correlation_id, e.causation_id, e.traceparent,
       to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time,
       e.position AS own_position, s.stream AS own_stream, e.stream_version AS own_version
FROM (SELECT l.feed_position, l.stream_id AS target_id, l.stream_version AS number, e.*,
             sum(least(e.size, $5)) OVER (ORDER BY l.stream_version ROWS UNBOUNDED PRECEDING) - least(e.size, $5)
                 AS bytes_before
      FROM (SELECT * FROM @schema@.links
            WHERE stream_id = (SELECT stream_id FROM @schema@.streams WHERE stream = $6) AND stream_version >= $1
            ORDER BY stream_version LIMIT $3) AS l
      CROSS JOIN LATERAL (SELECT * FROM @schema@.events WHERE position = l.position OFFSET 0) AS e) AS e
CROSS JOIN LATERAL (SELECT stream, category FROM @schema@.streams WHERE stream_id = e.target_id OFFSET 0) AS t
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS s
WHERE (SELECT @schema@.same_history_v1($7)) AND e.bytes_before < $4 AND e.feed_position <= $2
ORDER BY e.number

-- name: previous_in_category
-- The last position below $2[i] in category $1[i], for each i; 0 where there is none. The bounds as in
-- read_category_forward.
SELECT coalesce((SELECT e.position FROM @schema@.events AS e
                 WHERE (e.category, e.position) >= (w.category, 0) AND (e.category, e.position) < (w.category, w.position)
                 ORDER BY e.category DESC, e.position DESC LIMIT 1), 0) AS previous
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w (category, position, ord)
WHERE (SELECT @schema@.same_history_v1($3)) ORDER BY w.ord

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
WHERE (SELECT @schema@.same_history_v1($3)) ORDER BY w.ord

-- name: acquire_lease
-- Takes a lease that is free, expired, the caller's own, or impossibly far in the future (the clock was set back). Who
-- stands by only looks: to lock the row each time, as ON CONFLICT does, would take a transaction id and write to the log.
INSERT INTO @schema@.leases AS l (name, owner, epoch, length, until, process)
SELECT $1, $2, 1, $3::interval, clock_timestamp() + $3::interval, $4
WHERE (SELECT @schema@.durable_v1()) AND NOT EXISTS (SELECT FROM @schema@.leases AS held
                  WHERE held.name = $1 AND held.owner <> $2
                    AND held.until BETWEEN clock_timestamp() AND clock_timestamp() + 2::float8 * held.length)
ON CONFLICT (name) DO UPDATE
    SET owner = excluded.owner, epoch = l.epoch + 1, length = excluded.length, until = clock_timestamp() + $3::interval,
        process = excluded.process
    WHERE l.until < clock_timestamp() OR l.until > clock_timestamp() + 2::float8 * l.length OR l.owner = excluded.owner
RETURNING epoch

-- name: renew_lease
-- Also after it ran out, as long as nobody took it: a database that was away has not replaced anybody. But not after it
-- was released, by a statement that overtook this one.
UPDATE @schema@.leases SET until = clock_timestamp() + length
WHERE name = $1 AND owner = $2 AND epoch = $3 AND until > '-infinity' RETURNING epoch

-- name: release_lease
UPDATE @schema@.leases SET until = '-infinity' WHERE name = $1 AND owner = $2 AND epoch = $3

-- name: see_lease
SELECT owner, epoch, until FROM @schema@.leases WHERE name = $1

-- name: stand_by
-- Says that this process waits for a lease. What nobody has said again for a minute is forgotten.
WITH gone AS (DELETE FROM @schema@.standbys WHERE seen_at < clock_timestamp() - interval '1 minute' AND owner <> $2)
INSERT INTO @schema@.standbys (name, owner, process) VALUES ($1, $2, $3)
ON CONFLICT (name, owner) DO UPDATE SET process = excluded.process, seen_at = clock_timestamp()

-- name: holder_and_standbys
-- Of a lease: who holds it (first, with its epoch), and who has said within $2 that it waits.
WITH held AS (
    SELECT owner, process, epoch FROM @schema@.leases WHERE name = $1 AND until >= clock_timestamp())
SELECT process, epoch, 0::float8 AS seconds_ago FROM held
UNION ALL
SELECT process, NULL, extract(epoch FROM clock_timestamp() - seen_at)::float8 FROM @schema@.standbys
WHERE name = $1 AND seen_at >= clock_timestamp() - $2::interval AND owner NOT IN (SELECT owner FROM held)
ORDER BY epoch NULLS LAST, process

-- name: fence_relay
-- The new leader shuts its predecessor out, and learns where to go on.
INSERT INTO @schema@.relays AS r (name, position, owner, epoch) SELECT $1, $4, $2, $3
WHERE (SELECT @schema@.same_history_v1($5)) AND (SELECT @schema@.durable_v1())
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = excluded.epoch WHERE r.epoch <= excluded.epoch
RETURNING position

-- name: record_relay
-- Only the leader of this epoch, and only in the history in which the position was confirmed. Of the messages up to there,
-- $8 were given up since it was last recorded, from position $6 to $7; sent again, they are not counted again.
WITH moved AS (
    UPDATE @schema@.relays
    SET position = greatest(position, $4), updated_at = clock_timestamp()
    WHERE (SELECT @schema@.same_history_v1($5)) AND (SELECT @schema@.durable_v1()) AND name = $1 AND owner = $2 AND epoch = $3 RETURNING position
), noted AS (
    INSERT INTO @schema@.given_up AS g (relay, hour, first_position, last_position, messages)
    SELECT $1, date_trunc('hour', clock_timestamp(), 'UTC'), $6, $7, $8 FROM moved WHERE $8::bigint > 0
    ON CONFLICT (relay, hour) DO UPDATE
    SET last_position = excluded.last_position,
        messages = CASE WHEN g.last_position < excluded.first_position THEN g.messages + excluded.messages
                        ELSE greatest(g.messages, excluded.messages) END
    WHERE g.last_position < excluded.last_position
)
SELECT position FROM moved

-- name: given_up
-- What the relay $1 went on past, hour by hour.
SELECT hour, first_position, last_position, messages FROM @schema@.given_up WHERE relay = $1 ORDER BY hour

-- name: see_relay
SELECT position, owner, epoch, updated_at FROM @schema@.relays WHERE name = $1

-- name: relay_lag
-- How far the relay is behind the safe position $1: its place, the events and links ahead of it, each counted up to
-- 10,000 (as in list_subscriptions), and the age of the first of those events in seconds.
SELECT r.position,
       (SELECT count(*) FROM (SELECT FROM @schema@.events AS e WHERE e.position > r.position AND e.position <= $1
                              ORDER BY e.position LIMIT (SELECT 10000)) AS ahead)
     + (SELECT count(*) FROM (SELECT FROM @schema@.links AS l WHERE l.feed_position > r.position AND l.feed_position <= $1
                              ORDER BY l.feed_position LIMIT (SELECT 10000)) AS ahead) AS events,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - e.created_at)::float8 FROM @schema@.events AS e
                 WHERE e.position > r.position AND e.position <= $1 ORDER BY e.position LIMIT 1), 0) AS seconds
FROM @schema@.relays AS r WHERE r.name = $2

-- name: count_events
-- Of the events above $1 up to $2, at most $3.
SELECT count(*) FROM (SELECT FROM @schema@.events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3) AS e

-- name: holder
-- Whose open transaction holds the safe position $1 back: the lock of the oldest block, whose key carries its lower 31
-- bits. A prepared transaction has no process; the lock on its own id leads to its name. Without pg_read_all_stats the age
-- is null.
SELECT l.pid, coalesce(p.owner, a.usename)::text AS login, coalesce(a.application_name, '') AS application,
       p.gid AS prepared, l.objid::bigint AS block,
       extract(epoch FROM clock_timestamp() - coalesce(p.prepared, a.xact_start))::float8 AS age
FROM pg_locks AS l
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN pg_locks AS x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid' AND x.granted
    AND x.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts AS p ON p.transaction = x.transactionid
WHERE l.locktype = 'advisory' AND l.classid = '@schema@.events'::regclass::oid AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY (l.objid::bigint - $1::bigint / 1024) & 2147483647::bigint, l.granted DESC LIMIT 1  -- who waits for it holds nothing

-- name: overview
-- The store at a glance, at the safe position $1. What may be large is counted up to 10,000 (above that, streams and events
-- in all are PostgreSQL's estimates). Of a sequence, a reader may see nothing: the last position is the last event's.
SELECT clock_timestamp() AS at, s.data_type, s.content_type, s.created_at, @schema@.history_v1() AS history,
       (SELECT max(version) FROM @schema@.schema_migrations) AS version,
       coalesce((SELECT position FROM @schema@.events ORDER BY position DESC LIMIT 1), 0) AS last_position,
       (SELECT count(*) FROM (SELECT FROM @schema@.events WHERE position > $1 ORDER BY position
                              LIMIT (SELECT 10000)) AS held) AS held_back,
       CASE WHEN e.reltuples >= 10000::float4 THEN e.reltuples::bigint ELSE
           (SELECT count(*) FROM (SELECT FROM @schema@.events ORDER BY position LIMIT (SELECT 10000)) AS few) END AS events,
       CASE WHEN t.reltuples >= 10000::float4 THEN t.reltuples::bigint ELSE
           (SELECT count(*) FROM (SELECT FROM @schema@.streams ORDER BY stream_id LIMIT (SELECT 10000)) AS few)
       END AS streams,
       pg_stat_get_tuples_inserted(e.oid) AS inserted
FROM @schema@.store AS s, pg_class AS e, pg_class AS t
WHERE e.oid = '@schema@.events'::regclass::oid AND t.oid = '@schema@.streams'::regclass::oid

-- name: size
-- Of all tables with their indexes. To measure one waits for whoever holds it alone, as VACUUM FULL does.
SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = '@schema@.events'::regclass::oid) AND c.relkind = 'r'

-- name: relay_standing
-- What is recorded, and who leads now.
SELECT r.position, CASE WHEN l.until >= clock_timestamp() THEN l.owner END AS owner, r.epoch, r.updated_at
FROM @schema@.relays AS r LEFT JOIN @schema@.leases AS l USING (name) WHERE r.name = $1

-- name: create_subscription
-- The row, made on the first subscribe; $3 counts only then. None where it is there, or somebody else makes it at the
-- same moment: a later statement sees it.
INSERT INTO @schema@.subscriptions (name, feed, checkpoint)
SELECT $1, $2, $3 WHERE (SELECT @schema@.durable_v1())
ON CONFLICT (name) DO NOTHING RETURNING subscription_id

-- name: fence_subscription
-- The new owner shuts its predecessor out, and learns where to go on.
UPDATE @schema@.subscriptions SET owner = $2, epoch = $3, halted = NULL
WHERE (SELECT @schema@.same_history_v1($4)) AND (SELECT @schema@.durable_v1()) AND subscription_id = $1 AND epoch <= $3 RETURNING checkpoint, finished

-- name: checkpoint
-- Moves forward only, and only for the owner of this epoch, in the history in which the events were read. $6 and $7 are
-- positions and ids of events that were handed over since the last checkpoint; $4 is the last of them. No row: another
-- owner has the subscription, it is deleted, or the store does not hold one of these events. Computed from the row as it
-- is once it is locked.
UPDATE @schema@.subscriptions AS s
SET (checkpoint, finished) = (SELECT f.checkpoint, f.finished FROM @schema@.settled_v1(
        s.checkpoint, s.finished, int8multirange(int8range(NULL, $4, '[]'))) AS f),
    updated_at = clock_timestamp()
WHERE (SELECT @schema@.same_history_v1($5)) AND (SELECT @schema@.durable_v1()) AND (SELECT @schema@.holds_v1($6, $7))
  AND subscription_id = $1 AND owner = $2 AND epoch = $3 RETURNING checkpoint

-- name: last_held
-- The last event that the store holds in history $3, of those at feed positions $1 with ids $2.
SELECT max(h.place) FROM unnest($1::bigint[], $2::uuid[]) AS h (place, id)
WHERE (SELECT @schema@.same_history_v1($3)) AND (
    EXISTS (SELECT FROM @schema@.events AS e WHERE e.position = h.place AND e.event_id = h.id)
    OR EXISTS (SELECT FROM @schema@.links AS l JOIN @schema@.events AS e ON e.position = l.position
               WHERE l.feed_position = h.place AND e.event_id = h.id))

-- name: finish
-- As checkpoint, of one batch that covers its feed from $4 (exclusive) to $6: once only. No row may also mean that it
-- is finished: the answer to a commit was lost, and the work is not to be done again.
UPDATE @schema@.subscriptions AS s
SET (checkpoint, finished) = (SELECT f.checkpoint, f.finished FROM @schema@.settled_v1(
        s.checkpoint, s.finished, int8multirange(int8range($4, $6, '(]'))) AS f),
    updated_at = clock_timestamp()
WHERE (SELECT @schema@.same_history_v1($5)) AND (SELECT @schema@.durable_v1()) AND (SELECT @schema@.holds_v1($7, $8))
  AND subscription_id = $1 AND owner = $2 AND epoch = $3
  AND s.checkpoint < $6 AND NOT s.finished OPERATOR(pg_catalog.@>) $6::bigint RETURNING checkpoint

-- name: guard
-- Locks the row for its owner, until the transaction ends.
SELECT checkpoint FROM @schema@.subscriptions
WHERE (SELECT @schema@.same_history_v1($4)) AND (SELECT @schema@.durable_v1()) AND subscription_id = $1 AND owner = $2 AND epoch = $3 FOR NO KEY UPDATE

-- name: halt
UPDATE @schema@.subscriptions SET halted = $4::text::json
WHERE (SELECT @schema@.durable_v1()) AND subscription_id = $1 AND owner = $2 AND epoch = $3

-- name: standing
-- Its owner now, and what is finished: the reasons for which a guard refuses.
SELECT l.owner, l.epoch, s.checkpoint, s.finished
FROM @schema@.subscriptions AS s
LEFT JOIN @schema@.leases AS l ON l.name = 'subscription ' || s.subscription_id::text
WHERE (SELECT @schema@.same_history_v1($2)) AND s.subscription_id = $1

-- name: read_only
-- Whether the server, or all of its sessions, can write nothing.
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean

-- name: started_within
-- Whether the server was started within the last $1 seconds: who was connected before has lost the connection.
SELECT clock_timestamp() - pg_postmaster_start_time() < make_interval(secs => $1::float8)

-- name: park
INSERT INTO @schema@.parked
    (subscription_id, first_position, last_position, stream, key, attempts, error, traceback)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING  -- the answer to a commit was lost

-- name: park_again
-- Somebody may have asked to discard it meanwhile.
UPDATE @schema@.parked
SET attempts = attempts + $3, error = $4, traceback = $5, wanted = CASE WHEN wanted = 'discard' THEN wanted END
WHERE subscription_id = $1 AND first_position = $2

-- name: unpark
DELETE FROM @schema@.parked WHERE subscription_id = $1 AND first_position = $2

-- name: still_parked
SELECT wanted FROM @schema@.parked WHERE subscription_id = $1 AND first_position = $2

-- name: want_next
-- Of key $2, when the batch at $3 has gone, and was the one that all others waited for: in the same transaction, so that
-- whoever owns the subscription then goes on with the next one.
UPDATE @schema@.parked SET wanted = 'retry'
WHERE subscription_id = $1 AND wanted IS NULL AND first_position > $3
  AND first_position = (SELECT min(first_position) FROM @schema@.parked WHERE subscription_id = $1 AND key = $2)

-- name: parked_keys
SELECT DISTINCT key FROM @schema@.parked WHERE subscription_id = $1 AND key IS NOT NULL

-- name: parked_wanted
-- What an operator wants done, but for what $2 names, at most $3. What waits behind another of its key is not its turn
-- before that one has gone, unless it is to be forgotten.
SELECT first_position, last_position, key FROM @schema@.parked AS p
WHERE subscription_id = $1 AND wanted IS NOT NULL AND first_position <> ALL ($2::bigint[])
  AND (wanted = 'discard' OR key IS NULL OR NOT EXISTS (
        SELECT FROM @schema@.parked AS q
        WHERE q.subscription_id = p.subscription_id AND q.key = p.key AND q.first_position < p.first_position))
ORDER BY first_position LIMIT $3

-- name: parked_of_key
SELECT first_position FROM @schema@.parked WHERE subscription_id = $1 AND key = $2 LIMIT 1

-- name: list_parked
-- From position $2 on, at most $3.
SELECT p.first_position, p.last_position, p.stream, p.key, p.attempts, p.error, p.traceback, p.wanted, p.parked_at
FROM @schema@.parked AS p JOIN @schema@.subscriptions AS s USING (subscription_id)
WHERE s.name = $1 AND p.first_position >= $2 ORDER BY p.first_position LIMIT $3

-- name: want_parked
-- $3: one batch, or all. What has failed is tried again, or stands first of its key: what waits behind it goes with it, in
-- order.
UPDATE @schema@.parked AS p SET wanted = $2 FROM @schema@.subscriptions AS s
WHERE (SELECT @schema@.durable_v1()) AND s.subscription_id = p.subscription_id AND s.name = $1 AND ($3::bigint IS NULL OR p.first_position = $3::bigint)
  AND ($2 = 'discard' OR p.attempts > 0 OR NOT EXISTS (
        SELECT FROM @schema@.parked AS q
        WHERE q.subscription_id = p.subscription_id AND q.key = p.key AND q.first_position < p.first_position))
RETURNING p.first_position

-- name: see_subscription
SELECT subscription_id, feed, checkpoint, owner, epoch, updated_at FROM @schema@.subscriptions WHERE name = $1

-- name: list_subscriptions
-- With $1, that one only; up to the safe position $2. `behind` is counted up to 10,000; where there are many, to fewer, so
-- that all of them cost half a million events at most (half a second), however many are late, and at least 100 each.
SELECT s.name, s.feed, s.checkpoint, CASE WHEN l.until >= clock_timestamp() THEN l.owner END AS owner, s.epoch,
       s.created_at, s.updated_at, a.events AS behind,
       coalesce(extract(epoch FROM clock_timestamp() - a.since), 0)::float8 AS seconds_behind,
       (SELECT count(*) FROM @schema@.parked AS p WHERE p.subscription_id = s.subscription_id) AS parked,
       s.halted::text AS halted, CASE WHEN l.until >= clock_timestamp() THEN l.process END AS process,
       a.events >= c.most AS or_more
FROM (SELECT CASE WHEN $1::text IS NULL THEN greatest(100, least(10000, 500000 / greatest(1, count(*))))::integer
             ELSE 10000 END AS most FROM @schema@.subscriptions) AS c
CROSS JOIN @schema@.subscriptions AS s
LEFT JOIN @schema@.leases AS l ON l.name = 'subscription ' || s.subscription_id::text
CROSS JOIN LATERAL @schema@.ahead_v1(s.feed, s.checkpoint, s.finished, $2, c.most) AS a
WHERE $1::text IS NULL OR s.name = $1
ORDER BY s.name

-- name: left_of
-- Whether anything of a subscription's feed is left up to a position, and why its handler gave up if it did.
SELECT a.events, s.halted::text AS halted FROM @schema@.subscriptions AS s
CROSS JOIN LATERAL @schema@.ahead_v1(s.feed, s.checkpoint, s.finished, $2, 1) AS a WHERE (SELECT @schema@.same_history_v1($3)) AND s.name = $1

-- name: see_halt
SELECT subscription_id, epoch, halted::text AS halted FROM @schema@.subscriptions WHERE name = $1

-- name: skip_halted
-- Finishes the interval ($3, $5] of the batch at $4 where the owner halted, and keeps what is finished above it. No row: the
-- subscription was taken or moved, or the batch was skipped, meanwhile.
UPDATE @schema@.subscriptions AS s
SET (checkpoint, finished) = (SELECT f.checkpoint, f.finished FROM @schema@.settled_v1(
        s.checkpoint, s.finished, int8multirange(int8range($3, $5, '(]'))) AS f),
    halted = NULL, updated_at = clock_timestamp()
WHERE (SELECT @schema@.durable_v1()) AND subscription_id = $1 AND epoch = $2
  AND halted OPERATOR(pg_catalog.->>) 'position' = ($4::bigint)::text RETURNING checkpoint

-- name: preview_reset
-- The effects of a move to $2: events of the feed that are finished above it, events up to it that are not, at most $3 of
-- each, and parked batches. Finished events are counted by swapping finished and unfinished: they are then ahead of $2.
SELECT again.events AS again, over.events AS passed_over,
       (SELECT count(*) FROM @schema@.parked AS p WHERE p.subscription_id = s.subscription_id) AS forgotten
FROM @schema@.subscriptions AS s
CROSS JOIN LATERAL (SELECT s.finished OPERATOR(pg_catalog.+) int8multirange(int8range(NULL, s.checkpoint, '[]')) AS finished)
    AS done
CROSS JOIN LATERAL @schema@.ahead_v1(s.feed, $2, int8multirange(int8range(NULL, NULL)) OPERATOR(pg_catalog.-) done.finished,
                                     upper(done.finished) - 1, $3) AS again
CROSS JOIN LATERAL @schema@.ahead_v1(s.feed, s.checkpoint, s.finished, $2, $3) AS over
WHERE s.name = $1

-- name: position_before
-- The last position, at or below the safe position $2, before the first event that was created at $1 or later.
SELECT coalesce((SELECT position FROM @schema@.events
                 WHERE position < (SELECT @schema@.first_since_v1($1)) AND position <= $2
                 ORDER BY position DESC LIMIT 1), 0)
WHERE (SELECT @schema@.same_history_v1($3))

-- name: feed_position_of
-- Where a version of a stream stands in it; null if it is not there.
SELECT coalesce(
    (SELECT e.position FROM @schema@.events AS e WHERE e.stream_id = s.stream_id AND e.stream_version = $2),
    (SELECT l.feed_position FROM @schema@.links AS l WHERE l.stream_id = s.stream_id AND l.stream_version = $2))
FROM @schema@.streams AS s WHERE (SELECT @schema@.same_history_v1($3)) AND s.stream = $1

-- name: stream_place
-- Where to read a stream on above a position.
SELECT stream_id, @schema@.version_above_v1(stream_id, $2) AS version FROM @schema@.streams
WHERE (SELECT @schema@.same_history_v1($3)) AND stream = $1 AND deleted_at IS NULL

-- name: version_above
-- The first version of stream $1 whose feed position is above $2, also if it is deleted. No row: there is no such stream.
SELECT @schema@.version_above_v1(stream_id, $2) FROM @schema@.streams
WHERE (SELECT @schema@.same_history_v1($3)) AND stream = $1

-- name: page_stream
-- Of stream $1 from version $2 on, its own events and linked ones, up to the safe position $3: at most $4, and none that
-- begins after $5 bytes of data. Which they are is found out first, then their data is fetched.
SELECT e.position, o.stream, e.stream_version, e.event_id, e.type, e.data@data_out@, e.metadata::text,
       e.correlation_id, e.causation_id, e.created_at, e.size, p.number, p.feed_position
FROM (SELECT *, sum(size) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - size AS bytes_before FROM (
        SELECT * FROM (
            (SELECT position, stream_version AS number, position AS feed_position, size FROM @schema@.events
             WHERE stream_id = $1 AND stream_version >= $2 ORDER BY stream_version LIMIT $4)
            UNION ALL
            (SELECT l.position, l.stream_version, l.feed_position, e.size FROM @schema@.links AS l
             CROSS JOIN LATERAL (SELECT size FROM @schema@.events WHERE position = l.position OFFSET 0) AS e
             WHERE l.stream_id = $1 AND l.stream_version >= $2 ORDER BY l.stream_version LIMIT $4)) AS mixed
        WHERE feed_position <= $3 ORDER BY number LIMIT $4) AS chosen) AS p
CROSS JOIN LATERAL (SELECT * FROM @schema@.events WHERE position = p.position OFFSET 0) AS e
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = e.stream_id OFFSET 0) AS o
WHERE (SELECT @schema@.same_history_v1($6)) AND p.bytes_before < $5
ORDER BY p.number

-- name: renew_leases
-- All leases of a process in one statement. One whose row somebody has locked is passed over: he must not delay the
-- others. `ours`: it was not taken, whether it could be renewed now or not.
WITH wanted AS (SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS w (name, owner, epoch)),
free AS (SELECT l.name FROM @schema@.leases AS l JOIN wanted AS w USING (name, owner, epoch)
         WHERE l.until > '-infinity'  -- as in renew_lease
         ORDER BY l.name FOR NO KEY UPDATE OF l SKIP LOCKED),
renewed AS (UPDATE @schema@.leases SET until = clock_timestamp() + length
            WHERE name IN (SELECT name FROM free) RETURNING name)
SELECT w.name, w.epoch, EXISTS (SELECT FROM renewed AS r WHERE r.name = w.name) AS renewed,
       EXISTS (SELECT FROM @schema@.leases AS l WHERE (l.name, l.owner, l.epoch) = (w.name, w.owner, w.epoch)) AS ours
FROM wanted AS w

-- name: delete_subscription
-- A new one of the same name has another id, which no former owner's guard fits.
WITH gone AS (DELETE FROM @schema@.subscriptions WHERE (SELECT @schema@.durable_v1()) AND name = $1 RETURNING subscription_id),
unparked AS (DELETE FROM @schema@.parked WHERE subscription_id IN (SELECT subscription_id FROM gone))
DELETE FROM @schema@.leases WHERE name IN (SELECT 'subscription ' || subscription_id::text FROM gone)

-- name: owned_subscription
-- No row if it is missing, or if this login may not own it: locking a row takes the right to change it. No owner waits for
-- this lock.
SELECT subscription_id FROM @schema@.subscriptions WHERE name = $1 FOR KEY SHARE

-- name: lock_subscription
SELECT subscription_id FROM @schema@.subscriptions WHERE (SELECT @schema@.durable_v1()) AND name = $1 FOR NO KEY UPDATE

-- name: unpark_all
WITH gone AS (DELETE FROM @schema@.parked WHERE subscription_id = $1 RETURNING 1) SELECT count(*) FROM gone

-- name: reset_subscription
-- In the owner's next epoch, so that no guard fits that was had before: a living owner finds out, and adopts it.
WITH taken AS (
    INSERT INTO @schema@.leases AS l (name, owner, epoch, length, until)
    VALUES ('subscription ' || $1::bigint::text, gen_random_uuid(), 1, '0', '-infinity')
    ON CONFLICT (name) DO UPDATE SET epoch = l.epoch + 1 RETURNING l.owner, l.epoch)
UPDATE @schema@.subscriptions AS s
SET checkpoint = $2, finished = '{}', halted = NULL, owner = taken.owner, epoch = taken.epoch,
    updated_at = clock_timestamp()
FROM taken WHERE s.subscription_id = $1
