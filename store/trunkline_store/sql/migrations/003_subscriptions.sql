-- Subscriptions in full: what is finished above a checkpoint, what could not be handled, how far behind they are.

ALTER TABLE @schema@.subscriptions
    ADD finished int8multirange NOT NULL DEFAULT '{}',  -- above the checkpoint: intervals that tile the feed
    -- Why the last owner gave up: stream, start (exclusive), position, last, attempts, error, traceback, at. All are listed
    -- with it, so it is bounded.
    ADD halted   json CHECK (octet_length(halted::text) <= 1048576);

-- Batches that a handler could not handle, and those that wait behind them, by reference: the events are in the store.
CREATE TABLE @schema@.parked (
    subscription_id bigint NOT NULL,
    first_position  bigint NOT NULL,
    last_position   bigint NOT NULL,
    stream          text COLLATE "C" NOT NULL,
    key             text COLLATE "C",  -- of the partition that waits behind it; null: nothing does
    attempts        integer NOT NULL,  -- 0: it was never tried, and waits behind another
    error           text,
    traceback       text,
    wanted          text CHECK (wanted IN ('retry', 'discard')),  -- by an operator; the owner does it
    parked_at       @schema@.moment NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subscription_id, first_position)
);
CREATE INDEX parked_key ON @schema@.parked (subscription_id, key, first_position) WHERE key IS NOT NULL;
CREATE INDEX parked_wanted ON @schema@.parked (subscription_id, first_position) WHERE wanted IS NOT NULL;

-- Every login that may read the store reads these; `roles.sql` says which rows a login may write.
ALTER TABLE @schema@.subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE @schema@.parked ENABLE ROW LEVEL SECURITY;
ALTER TABLE @schema@.leases ENABLE ROW LEVEL SECURITY;
CREATE POLICY reading ON @schema@.subscriptions FOR SELECT USING (true);
CREATE POLICY reading ON @schema@.parked FOR SELECT USING (true);
CREATE POLICY reading ON @schema@.leases FOR SELECT USING (true);

-- Finds the positions of a time, roughly, for the reset of a subscription to a time. It takes a few kB. Every search reads
-- the ranges that are not summarized; autovacuum summarizes a range when the next one begins.
CREATE INDEX events_created_at ON @schema@.events USING brin (created_at, position) WITH (autosummarize = on);

-- The position of the first event that was created at a time or later; 2^63 - 1 if there is none. Times do not grow
-- strictly with positions (writers wait for locks after they have read the clock, and imports bring their own times), so a
-- binary search would miss some. The index above leads to the first pages that hold such an event, then to earlier ones,
-- until there is none. The settings exclude other plans: by position, all events before the first would be read.
CREATE FUNCTION @schema@.first_since_v1(_time timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_indexscan = off
SET cpu_index_tuple_cost = 10000  -- a cost that B-trees have, and BRIN has not
SET jit = off
AS $$
DECLARE
    _first bigint := 9223372036854775807;
    _found bigint;
BEGIN
    LOOP
        SELECT position INTO _found FROM @schema@.events WHERE created_at >= _time AND position < _first LIMIT 1;
        IF NOT FOUND THEN
            RETURN _first;
        END IF;
        _first := _found;
    END LOOP;
END $$;

-- A checkpoint and what is finished above it, when `_more` is finished too: up to the first gap, and beyond it. Every batch
-- of a handler with `tx` comes by here; in SQL it would be planned anew each time.
CREATE FUNCTION @schema@.settled_v1(_checkpoint bigint, _finished int8multirange, _more int8multirange,
    OUT checkpoint bigint, OUT finished int8multirange)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    finished := _finished + _more + int8multirange(int8range(NULL, _checkpoint, '[]'));
    checkpoint := lower(int8multirange(int8range(NULL, NULL)) - finished) - 1;
    finished := finished - int8multirange(int8range(NULL, checkpoint, '[]'));
END $$;

-- True if the store holds all of these events, each at its place in the feed (for a link, the place of the link). With it, a
-- checkpoint proves that the event on which it stands exists: a forged message, a restored copy of the data folder, or a
-- hard delete may have left none.
CREATE FUNCTION @schema@.holds_v1(_feed_positions bigint[], _ids uuid[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
    FOR i IN 1 .. cardinality(_feed_positions) LOOP
        IF NOT EXISTS (SELECT FROM @schema@.events AS e WHERE e.position = _feed_positions[i] AND e.event_id = _ids[i])
                AND NOT EXISTS (SELECT FROM @schema@.links AS l JOIN @schema@.events AS e ON e.position = l.position
                                WHERE l.feed_position = _feed_positions[i] AND e.event_id = _ids[i]) THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END $$;

-- The lowest version of a stream whose feed position is above `_position`: positions grow as versions do, so it is
-- searched by halves. Versions may be missing, where a hard delete took the event of a link.
CREATE FUNCTION @schema@.version_above_v1(_stream_id bigint, _position bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
    _low    bigint := 1;
    _high   bigint := (SELECT version + 1 FROM @schema@.streams WHERE stream_id = _stream_id);
    _middle bigint;
    _found  record;
BEGIN
    WHILE _low < _high LOOP
        _middle := (_low + _high) / 2;
        SELECT * INTO _found FROM (
            (SELECT stream_version, position FROM @schema@.events
             WHERE stream_id = _stream_id AND stream_version >= _middle ORDER BY stream_version LIMIT 1)
            UNION ALL
            (SELECT stream_version, feed_position FROM @schema@.links
             WHERE stream_id = _stream_id AND stream_version >= _middle ORDER BY stream_version LIMIT 1)
        ) AS v ORDER BY stream_version LIMIT 1;
        IF NOT FOUND OR _found.position > _position THEN
            _high := _middle;
        ELSE
            _low := _found.stream_version + 1;
        END IF;
    END LOOP;
    RETURN _low;
END $$;

-- What of a feed is above the checkpoint and not finished, up to a position: how many events, at most so many, and
-- since when the first of them is there.
CREATE FUNCTION @schema@.ahead_v1(_feed text, _checkpoint bigint, _finished int8multirange, _upto bigint, _most integer,
    OUT events bigint, OUT since timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
    _id   bigint;
    _from bigint;
BEGIN
    IF _feed = '$all' THEN
        SELECT count(*), (array_agg(a.created_at ORDER BY a.position))[1] INTO events, since FROM (
            SELECT e.position, e.created_at FROM @schema@.events AS e
            WHERE e.position > _checkpoint AND e.position <= _upto AND NOT _finished @> e.position
            ORDER BY e.position LIMIT _most) AS a;
    ELSIF starts_with(_feed, '$category-') THEN
        SELECT count(*), (array_agg(a.created_at ORDER BY a.position))[1] INTO events, since FROM (
            SELECT e.position, e.created_at FROM @schema@.events AS e
            WHERE (e.category, e.position) > (substr(_feed, 11), _checkpoint)  -- as in read_category_forward
              AND (e.category, e.position) <= (substr(_feed, 11), _upto)
              AND NOT _finished @> e.position
            ORDER BY e.category, e.position LIMIT _most) AS a;
    ELSE
        SELECT stream_id INTO _id FROM @schema@.streams WHERE stream = _feed AND deleted_at IS NULL;
        _from := @schema@.version_above_v1(_id, _checkpoint);
        SELECT count(*), (array_agg(a.created_at ORDER BY a.position))[1] INTO events, since FROM (
            SELECT * FROM (
                (SELECT e.position, e.created_at FROM @schema@.events AS e
                 WHERE e.stream_id = _id AND e.stream_version >= _from AND e.position <= _upto
                   AND NOT _finished @> e.position
                 ORDER BY e.stream_version LIMIT _most)
                UNION ALL
                (SELECT l.feed_position, e.created_at FROM @schema@.links AS l
                 JOIN @schema@.events AS e ON e.position = l.position
                 WHERE l.stream_id = _id AND l.stream_version >= _from AND l.feed_position <= _upto
                   AND NOT _finished @> l.feed_position
                 ORDER BY l.stream_version LIMIT _most)) AS mixed
            ORDER BY position LIMIT _most) AS a;
    END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM PUBLIC;
