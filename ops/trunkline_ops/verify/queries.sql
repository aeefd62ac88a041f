-- name: page
-- Events and links in the one order, above position $1 and up to $2: at most $3.
SELECT * FROM (
    (SELECT position, stream_id, category, false AS link FROM @schema@.events
     WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3)
    UNION ALL
    (SELECT feed_position, stream_id, NULL, true FROM @schema@.links
     WHERE feed_position > $1 AND feed_position <= $2 ORDER BY feed_position LIMIT $3)) AS both_kinds
ORDER BY position LIMIT $3

-- name: held
-- Those of positions $1 at which the store holds an event or a link.
SELECT position FROM @schema@.events WHERE position = ANY ($1::bigint[])
UNION SELECT feed_position FROM @schema@.links WHERE feed_position = ANY ($1::bigint[])

-- name: versions
-- Events and links of stream after stream, behind version $2 of stream $1: at most $3.
SELECT * FROM (
    (SELECT stream_id, stream_version, position FROM @schema@.events
     WHERE (stream_id, stream_version) > ($1, $2) ORDER BY stream_id, stream_version LIMIT $3)
    UNION ALL
    (SELECT stream_id, stream_version, feed_position FROM @schema@.links
     WHERE (stream_id, stream_version) > ($1, $2) ORDER BY stream_id, stream_version LIMIT $3)) AS both_kinds
ORDER BY stream_id, stream_version LIMIT $3

-- name: targets
-- Of streams $1, those that links are in. In order, else the table is read where most links are in few streams.
SELECT i.stream_id FROM unnest($1::bigint[]) AS i (stream_id)
CROSS JOIN LATERAL (SELECT FROM @schema@.links WHERE stream_id = i.stream_id ORDER BY stream_version LIMIT 1) AS l

-- name: ends
-- Streams behind $1, with the version that their row says and the last one that is there, in one snapshot. erasable: what
-- is missing can have been links to events that were removed for good: links are in it, or nothing is any more.
SELECT s.stream_id, s.stream, s.version, greatest(e.stream_version, l.stream_version, 0) AS last,
       l.stream_version IS NOT NULL OR e.stream_version IS NULL AS erasable
FROM @schema@.streams AS s
LEFT JOIN LATERAL (SELECT stream_version FROM @schema@.events WHERE stream_id = s.stream_id
                   ORDER BY stream_version DESC LIMIT 1) AS e ON true
LEFT JOIN LATERAL (SELECT stream_version FROM @schema@.links WHERE stream_id = s.stream_id
                   ORDER BY stream_version DESC LIMIT 1) AS l ON true
WHERE s.stream_id > $1 ORDER BY s.stream_id LIMIT $2

-- name: subscriptions
-- What each has finished. stream_id: of a feed that is one stream; a deleted stream has no feed.
SELECT s.subscription_id, s.name, s.feed, s.checkpoint, s.finished, s.halted IS NOT NULL AS halted,
       coalesce(l.until >= clock_timestamp(), false) AS followed, t.stream_id,
       EXISTS (SELECT FROM @schema@.parked AS p WHERE p.subscription_id = s.subscription_id) AS parks
FROM @schema@.subscriptions AS s
LEFT JOIN @schema@.leases AS l ON l.name = 'subscription ' || s.subscription_id::text
LEFT JOIN @schema@.streams AS t ON t.stream = s.feed AND t.deleted_at IS NULL
ORDER BY s.name

-- name: parked
-- Batches of a subscription that touch the range from $2 to $3.
SELECT first_position, last_position FROM @schema@.parked
WHERE subscription_id = $1 AND first_position <= $3 AND last_position >= $2 ORDER BY first_position
