-- Streams in full: several appends in one call, links, deletion, snapshots.

CREATE TABLE @schema@.links (
    feed_position  bigint PRIMARY KEY,  -- drawn like an event's, so that followers of the target meet it in order
    stream_id      bigint NOT NULL,     -- the target
    stream_version bigint NOT NULL,     -- in the target
    position       bigint NOT NULL,     -- of the event
    CONSTRAINT links_stream_version UNIQUE (stream_id, stream_version),
    CONSTRAINT links_once UNIQUE (stream_id, position)
);
CREATE INDEX links_position ON @schema@.links (position);  -- what a hard delete looks for

CREATE TABLE @schema@.snapshots (
    source     text COLLATE "C" PRIMARY KEY CHECK (octet_length(source) BETWEEN 1 AND 255),
    version    bigint NOT NULL CHECK (version >= 0),
    type       text COLLATE "C" NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 128),
    data       @data_type@ NOT NULL,
    metadata   json,
    created_at @schema@.moment NOT NULL DEFAULT clock_timestamp()
);

-- For the streams of a category, and for deleted streams, which are few.
CREATE INDEX streams_category ON @schema@.streams (category, stream);
CREATE INDEX streams_deleted ON @schema@.streams (stream) WHERE deleted_at IS NOT NULL;

-- Only a hard delete removes events, and only within its own transaction.
CREATE OR REPLACE FUNCTION @schema@.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('trunkline.hard_delete', true) = pg_current_xact_id()::text THEN
        RETURN OLD;
    END IF;
    RAISE feature_not_supported USING MESSAGE = format('%s are never changed: %s on %I.%I refused',
        CASE TG_TABLE_NAME WHEN 'events' THEN 'events' ELSE 'rows of ' || TG_TABLE_NAME END,
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME);
END $$;
CREATE TRIGGER links_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON @schema@.links
    FOR EACH STATEMENT EXECUTE FUNCTION @schema@.refuse_change();

-- An event belongs to its stream by the stream's number, and a store's types hold for all of its events: neither may change.
-- The functions update a stream's version and the time of its deletion, so an append runs none of these triggers. A stream
-- without events has no version yet, and may be deleted.
CREATE TRIGGER streams_keep_their_names BEFORE UPDATE OF stream_id, stream, category, created_at OR TRUNCATE ON @schema@.streams
    FOR EACH STATEMENT EXECUTE FUNCTION @schema@.refuse_change();
CREATE TRIGGER streams_go_with_their_events BEFORE DELETE ON @schema@.streams
    FOR EACH ROW WHEN (OLD.version > 0) EXECUTE FUNCTION @schema@.refuse_change();
CREATE TRIGGER store_is_what_it_is BEFORE UPDATE OF only_row, data_type, content_type, created_at OR DELETE OR TRUNCATE
    ON @schema@.store FOR EACH STATEMENT EXECUTE FUNCTION @schema@.refuse_change();  -- a copy may take a new store_id

-- What is to be said of an append or a link to a stream that is at `_actual` (null: it is not there), or null if it
-- may go on. _expected as in append_v1.
CREATE FUNCTION @schema@.refusal(_expected bigint, _actual bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN _expected = -1 OR _expected = coalesce(_actual, 0) THEN NULL
        WHEN _expected = -2 THEN CASE WHEN _actual > 0 THEN 'stream_exists' END
        WHEN _expected = -3 THEN CASE WHEN _actual IS NULL THEN 'stream_not_found' END
        ELSE 'wrong_expected_version'
    END
$$;

-- Appends to several streams in one call, each stream once: the first _counts[1] events to the first stream, and so on.
-- All of them share their blocks.
--   _together  true: all or nothing, waiting for locks (append_to_streams);
--              false: each succeeds or fails on its own, and none waits for a stream that somebody else holds: its
--              status is `busy`, and it can be sent alone (coalesced appends of a process).
CREATE FUNCTION @schema@.append_many_v1(
    _together boolean, _streams text[], _expected bigint[], _counts integer[],
    _ids uuid[], _types text[], _data @data_param@[],
    _metadata text[] DEFAULT NULL, _correlation_ids text[] DEFAULT NULL, _causation_ids text[] DEFAULT NULL,
    _traceparents text[] DEFAULT NULL, _created_at timestamptz[] DEFAULT NULL
) RETURNS TABLE (status text, actual bigint, first_version bigint, last_version bigint,
                 first_position bigint, last_position bigint, duplicate uuid)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off  -- its plans are made on an empty table, and kept until the first ANALYZE
SET jit = off  -- and what has to be scanned nevertheless (a sequence) looks so dear that each call would compile it
AS $$
#variable_conflict use_column
DECLARE
    _a         constant integer := cardinality(_streams);
    _now       constant timestamptz := clock_timestamp();
    _status    text[] := array_fill(NULL::text, ARRAY[_a]);
    _stream_id bigint[] := array_fill(NULL::bigint, ARRAY[_a]);
    _actual    bigint[] := array_fill(NULL::bigint, ARRAY[_a]);
    _first     integer[] := array_fill(0, ARRAY[_a]);  -- the first of an append's events, counted over all
    _append    integer[] := '{}';  -- for each event, the number of its append
    _old       bigint[] := array_fill(NULL::bigint, ARRAY[_a]);  -- of an append that is stored: its first version
    _old_first bigint[] := array_fill(NULL::bigint, ARRAY[_a]);
    _old_last  bigint[] := array_fill(NULL::bigint, ARRAY[_a]);
    _duplicate uuid[] := array_fill(NULL::uuid, ARRAY[_a]);
    _missing   text[];
    _created   bigint[] := '{}';
    _next      integer := 1;
    _blocks    bigint[];
    _r         record;
    _patience  constant text := current_setting('lock_timeout');
    _held      boolean;
BEGIN
    -- What `unnest` counts from 1 on is also looked up by its number: else an event could get another stream's category.
    IF 1 <> ANY (ARRAY[array_lower(_streams, 1), array_lower(_expected, 1), array_lower(_counts, 1)]) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the lists of streams, expected versions and counts must begin at 1';
    END IF;
    FOR i IN 1 .. _a LOOP
        _first[i] := _next;
        FOR j IN 1 .. _counts[i] LOOP
            _append[_next] := i;
            _next := _next + 1;
        END LOOP;
    END LOOP;
    IF cardinality(_counts) <> _a OR 0 > ANY (_counts) OR cardinality(_ids) IS DISTINCT FROM _next - 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'counts %s do not fit %s streams and %s events', _counts, _a, cardinality(_ids));
    END IF;

    IF NOT _together THEN  -- an event id that somebody else is just storing is not waited for either
        PERFORM set_config('lock_timeout', '100ms', true);
    END IF;
    IF _together THEN
        -- One by one in the order of their names, and made where they are missing: no two such calls wait for each other.
        FOR _next IN SELECT x.ord FROM unnest(_streams) WITH ORDINALITY AS x (stream, ord) ORDER BY x.stream COLLATE "C" LOOP
            LOOP
                SELECT s.stream_id, s.version, s.deleted_at INTO _r
                    FROM @schema@.streams AS s WHERE s.stream = _streams[_next] FOR UPDATE;
                IF FOUND THEN
                    _stream_id[_next] := _r.stream_id;
                    _actual[_next] := _r.version;
                    _status[_next] := CASE WHEN _r.deleted_at IS NOT NULL THEN 'stream_deleted' END;
                    EXIT;
                END IF;
                EXIT WHEN _counts[_next] = 0 OR @schema@.refusal(_expected[_next], NULL) IS NOT NULL;
                PERFORM pg_advisory_xact_lock_shared('@schema@.streams'::regclass::oid::integer,
                                                     hashtext(_streams[_next]) & 1023);
                INSERT INTO @schema@.streams AS s (stream, category, version, created_at)
                    VALUES (_streams[_next], split_part(_streams[_next], '-', 1), 0,
                            coalesce(_created_at[_first[_next]], _now))
                    ON CONFLICT DO NOTHING RETURNING s.stream_id INTO _r;
                IF FOUND THEN
                    _stream_id[_next] := _r.stream_id;
                    _actual[_next] := 0;
                    _created := _created || _r.stream_id;
                    EXIT;
                END IF;
            END LOOP;
        END LOOP;
    ELSE
        WITH free AS MATERIALIZED (
            SELECT s.stream_id, s.stream, s.version, s.deleted_at FROM @schema@.streams AS s
            WHERE s.stream = ANY (_streams) ORDER BY s.stream_id FOR UPDATE SKIP LOCKED)
        SELECT array_agg(f.stream_id ORDER BY x.ord), array_agg(f.version ORDER BY x.ord),
               array_agg(CASE WHEN f.deleted_at IS NOT NULL THEN 'stream_deleted' END ORDER BY x.ord)
            INTO _stream_id, _actual, _status
            FROM unnest(_streams) WITH ORDINALITY AS x (stream, ord) LEFT JOIN free AS f ON f.stream = x.stream;
        IF array_position(_stream_id, NULL) IS NOT NULL THEN
            FOR _r IN SELECT s.stream FROM @schema@.streams AS s WHERE s.stream = ANY (_streams) LOOP
                _next := array_position(_streams, _r.stream);
                IF _stream_id[_next] IS NULL THEN
                    _status[_next] := 'busy';
                END IF;
            END LOOP;
        END IF;
    END IF;

    -- Appends that are stored already, and ids that are taken otherwise: mostly there are none.
    FOR _r IN
        SELECT i.append, count(*) AS found, (array_agg(i.event_id ORDER BY i.ord))[1] AS event_id,
               bool_and(e.stream_id = _stream_id[i.append] AND e.type = i.type
                        AND e.data::text = i.data::@data_type@::text
                        AND e.metadata::text IS NOT DISTINCT FROM i.metadata) AS same,
               min(e.stream_version - i.ord) = max(e.stream_version - i.ord) AS in_order,
               min(e.stream_version) AS version, min(e.position) AS low, max(e.position) AS high
        FROM @schema@.events AS e
        JOIN unnest(_append, _ids, _types, _data, _metadata) WITH ORDINALITY
            AS i (append, event_id, type, data, metadata, ord) ON i.event_id = e.event_id
        WHERE EXISTS (SELECT FROM @schema@.events AS x WHERE x.event_id = ANY (_ids))
            AND e.event_id = ANY (_ids) GROUP BY i.append
    LOOP
        IF _status[_r.append] IS NULL THEN
            IF _r.same AND _r.in_order AND _r.found = _counts[_r.append] THEN
                _status[_r.append] := 'appended';
                _old[_r.append] := _r.version;
                _old_first[_r.append] := _r.low;
                _old_last[_r.append] := _r.high;
            ELSIF _stream_id[_r.append] IS NULL
                    AND EXISTS (SELECT FROM @schema@.streams AS s WHERE s.stream = _streams[_r.append]) THEN
                _status[_r.append] := 'busy';  -- it was made since we looked, perhaps by this same append
            ELSE
                _status[_r.append] := 'duplicate_event';
                _duplicate[_r.append] := _r.event_id;
            END IF;
        END IF;
    END LOOP;

    IF _together AND 'busy' = ANY (_status) THEN
        DELETE FROM @schema@.streams AS s WHERE s.stream_id = ANY (_created);
        RETURN QUERY SELECT * FROM @schema@.append_many_v1(_together, _streams, _expected, _counts, _ids, _types, _data,
            _metadata, _correlation_ids, _causation_ids, _traceparents, _created_at);
        RETURN;
    END IF;

    -- A retry, such as after a lost answer: streams that were only checked were as expected then, and may have moved since.
    IF _together AND 0 = ANY (_counts)
            AND (SELECT bool_and(x.old IS NOT NULL) FROM unnest(_counts, _old) AS x (n, old) WHERE x.n > 0) THEN
        FOR i IN 1 .. _a LOOP
            IF _counts[i] = 0 THEN
                _status[i] := 'appended';
                _actual[i] := CASE WHEN _expected[i] >= 0 THEN _expected[i] WHEN _expected[i] = -2 THEN 0 ELSE _actual[i] END;
            END IF;
        END LOOP;
    END IF;

    FOR i IN 1 .. _a LOOP
        IF _status[i] IS NULL THEN
            _status[i] := coalesce(@schema@.refusal(_expected[i], _actual[i]),
                                   CASE WHEN _counts[i] = 0 THEN 'appended' END);
        END IF;
    END LOOP;
    IF _together AND array_position(_status, NULL) IS NOT NULL THEN
        FOR i IN 1 .. _a LOOP  -- one part is stored and another is not: this is no repetition of the whole
            IF _old[i] IS NOT NULL THEN
                _status[i] := 'duplicate_event';
                _duplicate[i] := _ids[_first[i]];
            END IF;
        END LOOP;
    END IF;
    IF _together AND EXISTS (SELECT FROM unnest(_status) AS s WHERE s <> 'appended') THEN
        _status := ARRAY(SELECT coalesce(s, 'appended') FROM unnest(_status) WITH ORDINALITY AS x (s, ord) ORDER BY ord);
        DELETE FROM @schema@.streams AS s WHERE s.stream_id = ANY (_created);
    END IF;

    -- New streams; where it is all or nothing, they are made by now.
    IF array_position(_stream_id, NULL) IS NOT NULL THEN
        _missing := ARRAY(SELECT x.stream FROM unnest(_streams, _stream_id, _status) AS x (stream, id, status)
                          WHERE x.id IS NULL AND x.status IS NULL ORDER BY x.stream COLLATE "C");
        FOR i IN 1 .. cardinality(_missing) LOOP
            _next := array_position(_streams, _missing[i]);
            _status[_next] := 'busy';  -- unless we make it now
            IF NOT pg_try_advisory_xact_lock('@schema@.streams'::regclass::oid::integer, hashtext(_missing[i]) & 1023) THEN
                _missing[i] := NULL;
            END IF;
        END LOOP;
        FOR _r IN
            INSERT INTO @schema@.streams AS s (stream, category, version, created_at)
                SELECT m.stream, split_part(m.stream, '-', 1), 0,
                       coalesce(_created_at[_first[array_position(_streams, m.stream)]], _now)
                FROM unnest(_missing) AS m (stream) WHERE m.stream IS NOT NULL ORDER BY m.stream COLLATE "C"
                ON CONFLICT DO NOTHING RETURNING s.stream_id, s.stream
        LOOP
            _next := array_position(_streams, _r.stream);
            _stream_id[_next] := _r.stream_id;
            _actual[_next] := 0;
            _status[_next] := NULL;
        END LOOP;
    END IF;

    IF array_position(_status, NULL) IS NOT NULL THEN
        _held := @schema@.hold_readers_back();
        FOR i IN 0 .. (cardinality(_ids) - 1) / 1024 LOOP
            _blocks[i + 1] := nextval('@schema@.blocks');
        END LOOP;
        INSERT INTO @schema@.events (position, stream_id, stream_version, created_at, event_id, size, category, type,
                correlation_id, causation_id, traceparent, metadata, data)
            SELECT _blocks[(ord + 1023) / 1024] * 1024 + (ord - 1) % 1024, _stream_id[i.append],
                _actual[i.append] + ord - _first[i.append] + 1, coalesce(i.created_at, _now), i.event_id,
                octet_length(i.data@data_read@) + coalesce(octet_length(i.metadata), 0), split_part(_streams[i.append], '-', 1),
                i.type, i.correlation_id, i.causation_id, i.traceparent, i.metadata::json, i.data::@data_type@
            FROM unnest(_append, _ids, _types, _data, _metadata, _correlation_ids, _causation_ids, _traceparents,
                        _created_at) WITH ORDINALITY
                AS i (append, event_id, type, data, metadata, correlation_id, causation_id, traceparent, created_at, ord)
            WHERE _status[i.append] IS NULL;
        UPDATE @schema@.streams AS s SET version = x.actual + x.n
            FROM unnest(_stream_id, _actual, _counts, _status) AS x (id, actual, n, status)
            WHERE s.stream_id = x.id AND x.status IS NULL;
    END IF;

    PERFORM set_config('lock_timeout', _patience, true);
    RETURN QUERY
        SELECT coalesce(x.status, 'appended'), coalesce(x.actual, 0),
               CASE WHEN x.status IS NULL THEN x.actual + 1 ELSE x.old END,
               CASE WHEN x.status IS NULL THEN x.actual + x.n ELSE x.old + x.n - 1 END,
               CASE WHEN x.status IS NULL THEN _blocks[(x.first + 1023) / 1024] * 1024 + (x.first - 1) % 1024 ELSE x.low END,
               CASE WHEN x.status IS NULL THEN
                   _blocks[(x.first + x.n + 1022) / 1024] * 1024 + (x.first + x.n - 2) % 1024 ELSE x.high END,
               x.duplicate
        FROM unnest(_status, _actual, _counts, _first, _old, _old_first, _old_last, _duplicate) WITH ORDINALITY
            AS x (status, actual, n, first, old, low, high, duplicate, ord)
        ORDER BY x.ord;
END $$;

-- Links events into a stream: they are read there as well, and stay what they are. The answer is that of append_v1,
-- plus `event_not_found` with the first id that is unknown; first and last position are the links' feed positions.
CREATE FUNCTION @schema@.link_v1(
    _stream text, _expected bigint, _ids uuid[],
    OUT status text, OUT actual bigint,
    OUT first_version bigint, OUT last_version bigint, OUT first_position bigint, OUT last_position bigint,
    OUT duplicate uuid
) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    _n         constant integer := cardinality(_ids);
    _stream_id bigint;
    _deleted   boolean;
    _found     bigint[];
    _blocks    bigint[];
    _held      boolean;
BEGIN
    LOOP
        SELECT s.stream_id, s.version, s.deleted_at IS NOT NULL INTO _stream_id, actual, _deleted
            FROM @schema@.streams AS s WHERE s.stream = _stream FOR UPDATE;
        IF _deleted THEN
            status := 'stream_deleted';
            RETURN;
        END IF;
        status := @schema@.refusal(_expected, actual);
        actual := coalesce(actual, 0);
        IF status IS NOT NULL THEN
            RETURN;
        ELSIF _n = 0 THEN
            status := 'appended';
            RETURN;
        END IF;

        -- A hard delete of theirs waits, and finds the links; in the order in which it locks them too.
        PERFORM FROM @schema@.events AS e WHERE e.event_id = ANY (_ids) ORDER BY e.position FOR KEY SHARE;
        -- In one statement: what is missing may be there in the next one.
        SELECT array_agg(e.position ORDER BY i.ord), (array_agg(i.event_id ORDER BY i.ord) FILTER (WHERE e.position IS NULL))[1]
            INTO _found, duplicate
            FROM unnest(_ids) WITH ORDINALITY AS i (event_id, ord)
            LEFT JOIN LATERAL (SELECT position FROM @schema@.events WHERE event_id = i.event_id OFFSET 0) AS e ON true;
        IF duplicate IS NOT NULL THEN
            status := 'event_not_found';
            RETURN;
        END IF;
        SELECT i.event_id INTO duplicate FROM unnest(_ids, _found) WITH ORDINALITY AS i (event_id, position, ord)
            WHERE EXISTS (SELECT FROM @schema@.links AS l WHERE l.stream_id = _stream_id AND l.position = i.position)
               OR EXISTS (SELECT FROM @schema@.events AS e WHERE e.position = i.position AND e.stream_id = _stream_id)
            ORDER BY i.ord LIMIT 1;
        IF duplicate IS NOT NULL THEN
            status := 'duplicate_event';
            RETURN;
        END IF;

        EXIT WHEN _stream_id IS NOT NULL;
        PERFORM pg_advisory_xact_lock_shared('@schema@.streams'::regclass::oid::integer, hashtext(_stream) & 1023);
        INSERT INTO @schema@.streams (stream, category, version, created_at)
            VALUES (_stream, split_part(_stream, '-', 1), 0, clock_timestamp())
            ON CONFLICT DO NOTHING RETURNING stream_id INTO _stream_id;
        EXIT WHEN _stream_id IS NOT NULL;
    END LOOP;

    _held := @schema@.hold_readers_back();
    _blocks := ARRAY(SELECT nextval('@schema@.blocks') FROM generate_series(0, (_n - 1) / 1024));
    INSERT INTO @schema@.links (feed_position, stream_id, stream_version, position)
        SELECT _blocks[(ord + 1023) / 1024] * 1024 + (ord - 1) % 1024, _stream_id, actual + ord, i.position
        FROM unnest(_found) WITH ORDINALITY AS i (position, ord);
    UPDATE @schema@.streams AS s SET version = actual + _n WHERE s.stream_id = _stream_id;
    status := 'appended';
    first_version := actual + 1;
    last_version := actual + _n;
    first_position := _blocks[1] * 1024;
    last_position := _blocks[cardinality(_blocks)] * 1024 + (_n - 1) % 1024;
END $$;

-- What a delete finds: its row is locked, or the status says why not.
CREATE FUNCTION @schema@.lock_to_delete(_stream text, _expected bigint, OUT status text, OUT actual bigint, OUT id bigint)
LANGUAGE plpgsql AS $$
DECLARE
    _deleted boolean;
BEGIN
    PERFORM @schema@.durable_v1();
    SELECT s.stream_id, s.version, s.deleted_at IS NOT NULL INTO id, actual, _deleted
        FROM @schema@.streams AS s WHERE s.stream = _stream FOR UPDATE;
    status := CASE WHEN id IS NULL THEN 'stream_not_found' WHEN _deleted THEN 'stream_deleted'
        ELSE @schema@.refusal(_expected, actual) END;
    actual := coalesce(actual, 0);
END $$;

-- Marks a stream as deleted: its name cannot be used again, and its events stay in $all.
CREATE FUNCTION @schema@.delete_v1(_stream text, _expected bigint, OUT status text, OUT actual bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    _id bigint;
BEGIN
    SELECT l.status, l.actual, l.id INTO status, actual, _id FROM @schema@.lock_to_delete(_stream, _expected) AS l;
    IF status IS NULL THEN
        UPDATE @schema@.streams SET deleted_at = clock_timestamp() WHERE stream_id = _id;
        status := 'deleted';
    END IF;
END $$;

-- Removes a stream with its events, and all links to or from it. Positions are not given again; the name may be.
CREATE FUNCTION @schema@.hard_delete_v1(_stream text, _expected bigint, OUT status text, OUT actual bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    _id     bigint;
    _before constant text := coalesce(current_setting('trunkline.hard_delete', true), '');
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'a hard delete at ' || current_setting('transaction_isolation') || ' could leave links behind: use READ COMMITTED';
    END IF;
    SELECT l.status, l.actual, l.id INTO status, actual, _id FROM @schema@.lock_to_delete(_stream, _expected) AS l;
    IF status IS NULL THEN
        PERFORM set_config('trunkline.hard_delete', pg_current_xact_id()::text, true);
        PERFORM FROM @schema@.events AS e WHERE e.stream_id = _id ORDER BY e.position FOR UPDATE;  -- waits for links
        DELETE FROM @schema@.links AS l WHERE l.stream_id = _id;
        DELETE FROM @schema@.links AS l
            WHERE l.position IN (SELECT e.position FROM @schema@.events AS e WHERE e.stream_id = _id);
        DELETE FROM @schema@.events AS e WHERE e.stream_id = _id;
        DELETE FROM @schema@.streams AS s WHERE s.stream_id = _id;
        PERFORM set_config('trunkline.hard_delete', _before, true);
        status := 'deleted';
    END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM PUBLIC;
