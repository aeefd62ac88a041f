-- The store: its tables, and the functions that are the only way in.
--
-- Order. A position is block * 1024 + index. An append locks its stream's row, then draws one block per 1,024
-- events, so that positions and versions of a stream agree. Before a transaction draws its first block it reads
-- the sequence's last value L and takes a shared advisory lock whose key carries L; everything it draws is above L.
-- A reader takes S := last value, then the smallest L of all locks held: up to min(S, L) nothing can appear any
-- more. Proof: say T owns block P <= min(S, L) and is unfinished when the rows are read. P was drawn before S was
-- read, so T's lock was held before the locks were scanned, and it still is: the scan saw T's own L < P.
-- The blocks come from a sequence with CACHE 1, and rows are read in a later statement than the safe position;
-- with a larger cache, or in one statement, readers skip events. Last values come from pg_sequence_last_value(), which
-- locks the sequence's page. Without that lock, `SELECT last_value` can read a value 32 too high: once in 32 draws, while
-- nextval writes its log record.

CREATE TABLE @schema@.schema_migrations (
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: what this store is, and what must never change after its first event.
CREATE TABLE @schema@.store (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    store_id     uuid NOT NULL DEFAULT gen_random_uuid(),
    data_type    text NOT NULL CHECK (data_type IN ('json', 'jsonb', 'bytea')),
    content_type text NOT NULL,
    batch_count  integer NOT NULL DEFAULT 500 CHECK (batch_count BETWEEN 1 AND 1024),
    batch_bytes  integer NOT NULL DEFAULT 262144 CHECK (batch_bytes BETWEEN 1024 AND 8388608),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE SEQUENCE @schema@.blocks AS bigint CACHE 1 NO CYCLE;
-- Block 1 counts as drawn, since a virgin sequence has no last value. It is drawn by setval, since nextval takes the next 32
-- values as logged. They are not where wal_level = minimal and the sequence is made in the same transaction: after a crash,
-- blocks of committed events were drawn again.
SELECT setval('@schema@.blocks', 1);

-- Bounds of what every append writes. They are domains, and not checks of the tables, since each statement reads its
-- table's checks from their text again: that was a quarter of what an append of one event cost. No literal holds a
-- backslash, whose meaning depends on a setting (standard_conforming_strings).
CREATE DOMAIN @schema@.stream_name AS text COLLATE "C"
    CHECK (octet_length(VALUE) BETWEEN 1 AND 255 AND VALUE !~ '^[$]|^[[:space:]]*$|[[:cntrl:]]');
CREATE DOMAIN @schema@.category_name AS text COLLATE "C" CHECK (octet_length(VALUE) <= 64);
CREATE DOMAIN @schema@.label AS text COLLATE "C" CHECK (octet_length(VALUE) BETWEEN 1 AND 128);
CREATE DOMAIN @schema@.metadata AS json CHECK (octet_length(VALUE::text) <= 65536);
CREATE DOMAIN @schema@.event_size AS integer CHECK (VALUE BETWEEN 0 AND 67174400);  -- 64 MiB of data, 64 KiB of metadata
CREATE DOMAIN @schema@.moment AS timestamptz  -- what every language's dates can hold; not infinity
    CHECK (VALUE BETWEEN '0002-01-01 00:00:00+00' AND '9998-12-31 23:59:59.999999+00');
-- Nobody else may use the domains: an operator defined on one of them would win over PostgreSQL's own in a comparison.
REVOKE ALL ON DOMAIN @schema@.stream_name, @schema@.category_name, @schema@.label, @schema@.metadata, @schema@.event_size,
    @schema@.moment FROM PUBLIC;

CREATE TABLE @schema@.streams (
    stream_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream     @schema@.stream_name NOT NULL UNIQUE,
    category   @schema@.category_name NOT NULL,
    version    bigint NOT NULL,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz
) WITH (fillfactor = 80);  -- every append updates its row: room for it on the page keeps the update out of the indexes

CREATE TABLE @schema@.events (
    position       bigint PRIMARY KEY,
    stream_id      bigint NOT NULL,
    stream_version bigint NOT NULL,
    created_at     @schema@.moment NOT NULL,
    event_id       uuid NOT NULL,
    size           @schema@.event_size NOT NULL,  -- of data and metadata as they are read: batches and pages are cut by it
    category       text COLLATE "C" NOT NULL,
    type           @schema@.label NOT NULL,
    correlation_id @schema@.label,
    causation_id   @schema@.label,
    traceparent    @schema@.label,
    metadata       @schema@.metadata,
    data           @data_type@ NOT NULL,
    CONSTRAINT events_stream_version UNIQUE (stream_id, stream_version),
    CONSTRAINT events_event_id UNIQUE (event_id)
);
CREATE INDEX events_category ON @schema@.events (category, position);

CREATE FUNCTION @schema@.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE feature_not_supported USING MESSAGE = format('events are never changed: %s on %I.%I refused',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME);
END $$;
CREATE TRIGGER events_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON @schema@.events
    FOR EACH STATEMENT EXECUTE FUNCTION @schema@.refuse_change();

-- Who holds what, until when, by this database's clock. Apart from the rows that the holder guards, so that a
-- long transaction on those cannot delay a renewal.
CREATE TABLE @schema@.leases (
    name    text COLLATE "C" PRIMARY KEY,
    owner   uuid NOT NULL,
    epoch   bigint NOT NULL,
    length  interval NOT NULL,
    until   timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE @schema@.subscriptions (
    subscription_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text COLLATE "C" NOT NULL UNIQUE
               CHECK (octet_length(name) BETWEEN 1 AND 128 AND name !~ '^[[:space:]]*$|[[:cntrl:]]'),
    feed       text COLLATE "C" NOT NULL CHECK (octet_length(feed) BETWEEN 1 AND 255),
    checkpoint bigint NOT NULL CHECK (checkpoint >= 0),
    owner      uuid,
    epoch      bigint NOT NULL DEFAULT 0,
    created_at @schema@.moment NOT NULL DEFAULT clock_timestamp(),
    updated_at @schema@.moment NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- One row for the exchange: what has been confirmed by the broker.
CREATE TABLE @schema@.relays (
    name          text COLLATE "C" PRIMARY KEY,
    position      bigint NOT NULL CHECK (position >= 0),
    owner         uuid,
    epoch         bigint NOT NULL DEFAULT 0,
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Makes this transaction's commit wait for the disk, also in a session with synchronous_commit = off. A crash must not take
-- events that readers have seen, or that checkpoints rest on. `local` is the weakest level that ensures it
-- (https://www.postgresql.org/docs/current/wal-async-commit.html).
CREATE FUNCTION @schema@.durable_v1() RETURNS boolean LANGUAGE plpgsql AS $$  -- without settings, like same_history_v1
DECLARE
    _done boolean;
BEGIN
    IF pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off' THEN
        _done := pg_catalog.set_config('synchronous_commit', 'local', true) IS NULL;
    END IF;
    RETURN true;
END $$;

-- Takes the lock that tells readers how far they may read, before each draw of blocks. A setting remembers this
-- transaction's L, so that it takes the same lock again: one row of the lock table, however many appends an import has. The
-- setting is named after the events table, since one transaction may write to two stores. It only chooses the key, and the
-- lock is taken each time: a forged value hides nothing. A value counts as none if it is not a number, is above the
-- sequence, or is so far below it that 31 bits would soon not tell them apart. A savepoint that is rolled back takes the
-- setting along with the lock.
CREATE FUNCTION @schema@.hold_readers_back() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    _events  constant oid := '@schema@.events'::regclass;
    _setting constant text := 'trunkline.drawing_' || _events;
    _known   constant text := current_setting(_setting, true);
    _drawn   constant bigint := coalesce(pg_sequence_last_value('@schema@.blocks'), 0);
    _l       bigint := CASE WHEN _known ~ '^[0-9]{1,18}$' THEN _known::bigint END;
    _done    boolean;
BEGIN
    -- As assignments these take no queries: every append comes by here.
    IF (_l BETWEEN _drawn - 1073741824 AND _drawn) IS NOT TRUE THEN
        _l := _drawn;
        _done := set_config(_setting, _l::text, true) IS NULL;
    END IF;
    _done := pg_advisory_xact_lock_shared(_events::integer, (_l & 2147483647)::integer) IS NULL;
    IF current_setting('synchronous_commit') = 'off' THEN  -- durable_v1, without the cost of a call
        _done := set_config('synchronous_commit', 'local', true) IS NULL;
    END IF;
    RETURN true;
END $$;

-- Appends events to one stream, or says why not. Conflicts are values, so that a caller's transaction survives them.
--   expected     a version >= 0, or -1: any, -2: no stream, -3: the stream exists
--   status       appended | wrong_expected_version | stream_exists | stream_not_found | stream_deleted | duplicate_event
--   actual       the stream's version as found
--   first/last   versions and positions of the events, also when the same append had been stored before
--   duplicate    the first event id that is taken
-- Arrays after `data` may be left out.
CREATE FUNCTION @schema@.append_v1(
    _stream text, _expected bigint, _ids uuid[], _types text[], _data @data_param@[],
    _metadata text[] DEFAULT NULL, _correlation_ids text[] DEFAULT NULL, _causation_ids text[] DEFAULT NULL,
    _traceparents text[] DEFAULT NULL, _created_at timestamptz[] DEFAULT NULL,
    OUT status text, OUT actual bigint,
    OUT first_version bigint, OUT last_version bigint, OUT first_position bigint, OUT last_position bigint,
    OUT duplicate uuid
) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off  -- its plans are made on an empty table, and kept until the first ANALYZE
SET jit = off  -- and what has to be scanned nevertheless (a sequence) looks so dear that each call would compile it
AS $$
DECLARE
    _n         constant integer := cardinality(_ids);
    _category  constant text := split_part(_stream, '-', 1);
    _now       constant timestamptz := clock_timestamp();
    _stream_id bigint;
    _deleted   boolean;
    _counted   boolean := false;  -- whether the stream's version counts the new events already
    _blocks    bigint[];
    _held      boolean;
BEGIN
    -- Mostly the stream is there, and the version fits: then one statement locks and counts, which costs a tenth less
    -- WAL than two. Otherwise, and for a repetition, we look more closely.
    IF _n > 0 AND (_expected > 0 OR _expected = -1 OR _expected = -3) THEN
        UPDATE @schema@.streams AS s SET version = s.version + _n
            WHERE s.stream = _stream AND s.deleted_at IS NULL AND (s.version = _expected OR _expected < 0)
            RETURNING s.stream_id, s.version - _n INTO _stream_id, actual;
        _counted := FOUND;
        IF _counted AND EXISTS (SELECT FROM @schema@.events AS e WHERE e.event_id = ANY (_ids)) THEN
            UPDATE @schema@.streams AS s SET version = actual WHERE s.stream_id = _stream_id;
            _counted := false;
        END IF;
    END IF;

    WHILE NOT _counted LOOP
        SELECT s.stream_id, s.version, s.deleted_at IS NOT NULL INTO _stream_id, actual, _deleted
            FROM @schema@.streams AS s WHERE s.stream = _stream FOR UPDATE;
        IF _deleted THEN
            status := 'stream_deleted';
            RETURN;
        END IF;
        actual := coalesce(actual, 0);

        SELECT e.event_id INTO duplicate FROM @schema@.events AS e WHERE e.event_id = ANY (_ids) LIMIT 1;
        IF duplicate IS NOT NULL THEN
            -- The same append again has the same ids in the same order, at consecutive versions of this stream.
            SELECT min(e.stream_version), max(e.stream_version), min(e.position), max(e.position)
                INTO first_version, last_version, first_position, last_position
                FROM unnest(_ids, _types, _data, _metadata) WITH ORDINALITY AS i (event_id, type, data, metadata, ord)
                JOIN @schema@.events AS e USING (event_id)
                WHERE e.stream_id = _stream_id AND e.type = i.type AND e.data::text = i.data::@data_type@::text
                    AND e.metadata::text IS NOT DISTINCT FROM i.metadata
                HAVING count(*) = _n AND min(e.stream_version - i.ord) = max(e.stream_version - i.ord);
            IF FOUND THEN
                status := 'appended';
                duplicate := NULL;
            ELSIF _stream_id IS NULL AND EXISTS (SELECT FROM @schema@.streams AS s WHERE s.stream = _stream) THEN
                CONTINUE;  -- it was made since we looked, perhaps by this same append
            ELSE
                status := 'duplicate_event';
            END IF;
            RETURN;
        END IF;

        status := CASE
            WHEN _expected = -1 OR _expected = actual THEN NULL
            WHEN _expected = -2 THEN CASE WHEN actual > 0 THEN 'stream_exists' END
            WHEN _expected = -3 THEN CASE WHEN _stream_id IS NULL THEN 'stream_not_found' END
            ELSE 'wrong_expected_version'
        END;
        IF status IS NOT NULL THEN
            RETURN;
        ELSIF _n = 0 THEN
            status := 'appended';
            RETURN;
        END IF;

        EXIT WHEN _stream_id IS NOT NULL;
        -- Whoever creates a stream holds its name's bucket, so that a caller who must not wait can see that he would.
        _held := pg_advisory_xact_lock_shared('@schema@.streams'::regclass::oid::integer, hashtext(_stream) & 1023) IS NULL;
        INSERT INTO @schema@.streams (stream, category, version, created_at)
            VALUES (_stream, _category, _n, coalesce(_created_at[1], _now))
            ON CONFLICT DO NOTHING RETURNING stream_id INTO _stream_id;
        _counted := _stream_id IS NOT NULL;
    END LOOP;

    _held := @schema@.hold_readers_back();
    FOR i IN 0 .. (_n - 1) / 1024 LOOP
        _blocks[i + 1] := nextval('@schema@.blocks');  -- as an assignment it takes no query
    END LOOP;
    INSERT INTO @schema@.events (position, stream_id, stream_version, created_at, event_id, size, category, type,
            correlation_id, causation_id, traceparent, metadata, data)
        SELECT _blocks[(ord + 1023) / 1024] * 1024 + (ord - 1) % 1024, _stream_id, actual + ord,
            coalesce(i.created_at, _now), i.event_id,
            octet_length(i.data@data_read@) + coalesce(octet_length(i.metadata), 0), _category, i.type,
            i.correlation_id, i.causation_id, i.traceparent, i.metadata::json, i.data::@data_type@
        FROM unnest(_ids, _types, _data, _metadata, _correlation_ids, _causation_ids, _traceparents, _created_at)
            WITH ORDINALITY AS i (event_id, type, data, metadata, correlation_id, causation_id, traceparent, created_at, ord);
    IF NOT _counted THEN
        UPDATE @schema@.streams AS s SET version = actual + _n WHERE s.stream_id = _stream_id;
    END IF;

    status := 'appended';
    first_version := actual + 1;
    last_version := actual + _n;
    first_position := _blocks[1] * 1024;
    last_position := _blocks[cardinality(_blocks)] * 1024 + (_n - 1) % 1024;
END $$;

-- The same for one event, which is what most appends are: without arrays it takes a quarter less of the server's time.
CREATE FUNCTION @schema@.append_one_v1(
    _stream text, _expected bigint, _id uuid, _type text, _data @data_param@,
    _metadata text DEFAULT NULL, _correlation_id text DEFAULT NULL, _causation_id text DEFAULT NULL,
    _traceparent text DEFAULT NULL, _created_at timestamptz DEFAULT NULL,
    OUT status text, OUT actual bigint,
    OUT first_version bigint, OUT last_version bigint, OUT first_position bigint, OUT last_position bigint,
    OUT duplicate uuid
) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    _stream_id bigint;
    _held      boolean;
BEGIN
    IF _expected > 0 OR _expected = -1 OR _expected = -3 THEN
        UPDATE @schema@.streams AS s SET version = s.version + 1
            WHERE s.stream = _stream AND s.deleted_at IS NULL AND (s.version = _expected OR _expected < 0)
            RETURNING s.stream_id, s.version INTO _stream_id, last_version;
        IF FOUND THEN
            _held := @schema@.hold_readers_back();
            first_position := nextval('@schema@.blocks') * 1024;
            INSERT INTO @schema@.events (position, stream_id, stream_version, created_at, event_id, size, category, type,
                    correlation_id, causation_id, traceparent, metadata, data)
                SELECT first_position, _stream_id, last_version, coalesce(_created_at, clock_timestamp()), _id,
                    octet_length(_data@data_read@) + coalesce(octet_length(_metadata), 0), split_part(_stream, '-', 1), _type,
                    _correlation_id, _causation_id, _traceparent, _metadata::json, _data::@data_type@
                WHERE NOT EXISTS (SELECT FROM @schema@.events AS e WHERE e.event_id = _id);
            IF FOUND THEN
                status := 'appended';
                actual := last_version - 1;
                first_version := last_version;
                last_position := first_position;
                RETURN;
            END IF;
            UPDATE @schema@.streams AS s SET version = last_version - 1 WHERE s.stream_id = _stream_id;
        END IF;
    END IF;
    -- A new stream, a repetition or a conflict.
    SELECT * INTO status, actual, first_version, last_version, first_position, last_position, duplicate
        FROM @schema@.append_v1(_stream, _expected, ARRAY[_id], ARRAY[_type], ARRAY[_data], ARRAY[_metadata],
            ARRAY[_correlation_id], ARRAY[_causation_id], ARRAY[_traceparent], ARRAY[_created_at]);
END $$;

-- Up to here no event can appear any more, if the rows are read in a later statement.
-- The keys hold the low 31 bits of L; the rest is rebuilt from a second reading of the sequence, made after the scan,
-- for an L may be above S but never above that.
CREATE FUNCTION @schema@.safe_position_v1() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    _s      bigint;
    _s2     bigint;
    _low    bigint[];
    _safe   bigint;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'the order of $all can only be read at READ COMMITTED, not ' || current_setting('transaction_isolation');
    ELSIF pg_is_in_recovery() THEN  -- this may pass: a failover is under way
        RAISE read_only_sql_transaction USING
            MESSAGE = 'the locks of the primary cannot be seen from a replica: read $all on the primary';
    END IF;
    _s := coalesce(pg_sequence_last_value('@schema@.blocks'), 0);
    SELECT array_agg(objid::bigint) INTO _low FROM pg_locks
        WHERE locktype = 'advisory' AND classid = '@schema@.events'::regclass::oid AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    _s2 := coalesce(pg_sequence_last_value('@schema@.blocks'), 0);
    SELECT least(_s, min(_s2 - ((_s2 - low) & 2147483647))) INTO _safe FROM unnest(_low) AS low;
    RETURN _safe * 1024 + 1023;
END $$;

-- An id that does not survive a crash: PostgreSQL empties an unlogged table when it recovers, and a standby has none
-- (https://www.postgresql.org/docs/current/sql-createtable.html, UNLOGGED). It is needed because a crash makes the sequence
-- repeat numbers that were drawn and not yet logged: nextval is logged once in 33 draws, and a rollback flushes nothing.
-- The id is a generated column, which dumps leave out, so a restored store has another id.
CREATE FUNCTION @schema@.new_incarnation() RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT gen_random_uuid() $$;
CREATE UNLOGGED TABLE @schema@.incarnation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id       uuid NOT NULL GENERATED ALWAYS AS (@schema@.new_incarnation()) STORED
);
INSERT INTO @schema@.incarnation DEFAULT VALUES;

-- The history that positions belong to: this store, in this cluster, database and table, on this timeline, in this
-- incarnation. A restore, the promotion of a replica or a crash begins another history, in which the same positions can be
-- given again. `-` stands for an unknown part; `look_v1` makes the incarnation's row.
CREATE FUNCTION @schema@.history_v1() RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    _timeline    text := '-';
    _system      text := '-';
    _incarnation text;
BEGIN
    BEGIN
        IF NOT pg_is_in_recovery() THEN
            _timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
        END IF;
        _system := (SELECT system_identifier::text FROM pg_control_system());
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN
        NULL;  -- some services offer neither; what is left still tells stores and databases apart
    END;
    IF NOT pg_is_in_recovery() THEN  -- on a standby, an unlogged table cannot even be read
        SELECT i.id::text INTO _incarnation FROM @schema@.incarnation AS i;
    END IF;
    RETURN (SELECT store_id::text FROM @schema@.store) || '/' || _system || '/'
        || (SELECT oid::text FROM pg_database WHERE datname = current_database())
        || '/' || '@schema@.events'::regclass::oid::text || '/' || _timeline || '/' || coalesce(_incarnation, '-');
END $$;

-- Raises TK002 if this server was left behind by a promotion: a later timeline of this store was seen, and timelines only
-- grow.
CREATE FUNCTION @schema@.refuse_left_behind(_found text, _seen text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (string_to_array(_found, '/'))[:4] = (string_to_array(_seen, '/'))[:4]
            AND split_part(_found, '/', 5) < split_part(_seen, '/', 5) COLLATE "C" THEN
        RAISE SQLSTATE 'TK002' USING MESSAGE = format(
            'this server is on timeline %s, and timeline %s was seen: another one was promoted in its place',
            split_part(_found, '/', 5), split_part(_seen, '/', 5));
    END IF;
END $$;

-- Compares the whole history for `same_history_v1`, whose short comparison has found a difference; raises as that does.
CREATE FUNCTION @schema@.compare_history_v1(_expected text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    _found constant text := @schema@.history_v1();
BEGIN
    IF pg_is_in_recovery() THEN  -- this may pass: a failover is under way
        RAISE read_only_sql_transaction USING
            MESSAGE = 'this server is a replica, where nobody can tell how far may be read: read on the primary';
    ELSIF _found = _expected THEN
        RETURN true;
    END IF;
    PERFORM @schema@.refuse_left_behind(_found, _expected);
    RAISE SQLSTATE 'TK001' USING MESSAGE = format('history is %s, not %s', _found, _expected);
END $$;

-- Returns true in the history in which a position was learned; raises TK001 in another history, and TK002 on a server that
-- was left behind. Each statement that returns rows to followers contains it as `(SELECT same_history_v1(…))`. So it runs
-- on the server that returns the rows, once, before the scan, and for empty results too. Null: the caller runs all of its
-- statements in one session, in which the history cannot change.
-- It compares the parts that another server, database or crash would have changed. It has no settings, which would cost more
-- than the rest, so it names everything with its schema. The database's number is in the path of each of its files.
CREATE FUNCTION @schema@.same_history_v1(_expected text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    _incarnation uuid;
BEGIN
    IF NOT pg_catalog.pg_is_in_recovery() THEN  -- on a standby, an unlogged table cannot even be read
        SELECT i.id INTO _incarnation FROM @schema@.incarnation AS i;
    END IF;
    IF _expected IS NULL OR (
            pg_catalog.split_part(_expected, '/', 6) OPERATOR(pg_catalog.=) _incarnation::pg_catalog.text
            AND pg_catalog.split_part(_expected, '/', 5) OPERATOR(pg_catalog.=)
                CASE pg_catalog.split_part(_expected, '/', 5) WHEN '-' THEN '-'
                ELSE pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) END
            AND pg_catalog.split_part(_expected, '/', 3) OPERATOR(pg_catalog.=)
                pg_catalog.split_part(pg_catalog.pg_relation_filepath('@schema@.incarnation'), '/', -2)) THEN
        RETURN true;
    END IF;
    RETURN @schema@.compare_history_v1(_expected);
END $$;

-- The safe position and its history, for all followers; in autocommit.
--   seen     the history that was seen last, empty for none: a server that was left behind since then is refused
--   follow   true for callers that keep positions or write checkpoints: a read-only session is refused, and the
--            incarnation's row is made if it is missing
CREATE FUNCTION @schema@.look_v1(_seen text, _follow boolean, OUT safe bigint, OUT history text)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    safe := @schema@.safe_position_v1();
    IF _follow AND current_setting('transaction_read_only')::boolean THEN
        RAISE read_only_sql_transaction USING
            MESSAGE = 'the session is read-only: nobody can follow a store where checkpoints cannot be written';
    ELSIF _follow AND NOT EXISTS (SELECT FROM @schema@.incarnation) THEN
        INSERT INTO @schema@.incarnation DEFAULT VALUES ON CONFLICT DO NOTHING;
    END IF;
    history := @schema@.history_v1();  -- a later statement, to see a row that another session has just made
    PERFORM @schema@.refuse_left_behind(history, _seen);
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM PUBLIC;
