-- name: links
-- Behind $1 and up to $2, at most $3: where a link stands, in which stream, and whose event it is of.
SELECT l.feed_position, s.stream, l.stream_version, e.event_id
FROM (SELECT * FROM @schema@.links WHERE feed_position > $1 AND feed_position <= $2 ORDER BY feed_position LIMIT $3) AS l
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = l.stream_id OFFSET 0) AS s
CROSS JOIN LATERAL (SELECT event_id FROM @schema@.events WHERE position = l.position OFFSET 0) AS e
ORDER BY l.feed_position

-- name: deleted
-- Streams that are deleted, and whose events are still there, by name.
SELECT stream, deleted_at FROM @schema@.streams
WHERE deleted_at IS NOT NULL AND stream > $1 COLLATE "C" ORDER BY stream LIMIT $2

-- name: snapshots
SELECT source, version, type, data@data_out@, metadata::text FROM @schema@.snapshots
WHERE source > $1 COLLATE "C" ORDER BY source LIMIT $2
