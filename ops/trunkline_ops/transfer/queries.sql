-- name: links
-- Behind $1 and up to $2, at most $3: where a link stands, in which stream, and whose event it is of.
SELECT l.feed_position, s.stream, l.stream_version, e.event_id
FROM (SELECT * FROM @schema@.links WHERE feed_position > $1 AND feed_position <= $2 ORDER BY feed_position LIMIT $3) AS l
CROSS JOIN LATERAL (SELECT stream FROM @schema@.streams WHERE stream_id = l.stream_id OFFSET 0) AS s
CROSS JOIN LATERAL (SELECT event_id FROM @schema@.events WHERE position = l.position OFFSET 0) AS e
ORDER BY l.feed_position

-- name: deleted
-- Streams that are deleted and have an event or a link up to position $3, by name: behind $1, at most $2. One has none if it
-- was made behind that position, or if it held nothing but links to events that were removed for good.
SELECT s.stream, s.deleted_at FROM @schema@.streams AS s
WHERE s.deleted_at IS NOT NULL AND s.stream > $1 COLLATE "C"
  AND least((SELECT e.position FROM @schema@.events AS e WHERE e.stream_id = s.stream_id ORDER BY e.stream_version LIMIT 1),
            (SELECT l.feed_position FROM @schema@.links AS l WHERE l.stream_id = s.stream_id
             ORDER BY l.stream_version LIMIT 1)) <= $3
ORDER BY s.stream LIMIT $2

-- name: snapshots
-- Of sources behind $1: at most $2, and none that begins after $3 bytes of data.
SELECT source, version, type, data@data_out@, metadata::text
FROM (SELECT *, sum(size) OVER (ORDER BY source ROWS UNBOUNDED PRECEDING) - size AS bytes_before
      FROM (SELECT *, octet_length(data@data_out@) AS size FROM @schema@.snapshots
            WHERE source > $1 COLLATE "C" ORDER BY source LIMIT $2) AS sized) AS page
WHERE bytes_before < $3
ORDER BY source
