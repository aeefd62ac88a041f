-- Who may do what with a store: group roles, in which nobody logs in, and logins that are members of them.
--
-- Nobody is granted INSERT, UPDATE or DELETE on streams, events or links. The functions of the SQL interface are the
-- only way in: they belong to the store's owner, and do what they do with his rights.
-- A subscription's number is the database's alone: whoever could choose it (OVERRIDING SYSTEM VALUE) could leave a lease and
-- parked batches behind for the subscription that somebody else makes next.
-- All of it may be run again at any time.

-- name: create
-- Takes CREATEROLE where something is missing. Roles belong to the whole cluster: so this is no migration.
DO $do$
DECLARE
    _role text;
BEGIN
    FOREACH _role IN ARRAY ARRAY[@all_names@] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = _role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', _role);
        END IF;
        IF NOT pg_has_role(_role, @reader_name@, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', @reader_name@, _role);
        END IF;
    END LOOP;
    IF NOT pg_has_role(@relay_name@, 'pg_read_all_stats', 'MEMBER') THEN
        BEGIN  -- to tell since when a transaction has held readers back: not needed, and it shows all statements
            GRANT pg_read_all_stats TO @relay@;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'only a superuser may make % a member of pg_read_all_stats', @relay_name@;
        END;
    END IF;
END $do$;

-- name: grant
-- Takes the store's owner; also after each migration, which may have brought tables and functions.
REVOKE ALL ON ALL TABLES IN SCHEMA @schema@ FROM @all@;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA @schema@ FROM @all@;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM @all@;

GRANT USAGE ON SCHEMA @schema@ TO @reader@;
GRANT SELECT ON ALL TABLES IN SCHEMA @schema@ TO @reader@;
GRANT EXECUTE ON FUNCTION @schema@.safe_position_v1, @schema@.look_v1, @schema@.history_v1, @schema@.same_history_v1,
    @schema@.compare_history_v1, @schema@.version_above_v1, @schema@.ahead_v1, @schema@.first_since_v1 TO @reader@;

GRANT EXECUTE ON FUNCTION @schema@.append_v1, @schema@.append_one_v1, @schema@.append_many_v1, @schema@.link_v1, @schema@.delete_v1 TO @writer@;
GRANT INSERT, UPDATE, DELETE ON @schema@.snapshots TO @writer@;

GRANT EXECUTE ON FUNCTION @schema@.durable_v1 TO @relay@;
GRANT INSERT, UPDATE ON @schema@.relays, @schema@.leases, @schema@.given_up TO @relay@;
GRANT INSERT, UPDATE, DELETE ON @schema@.standbys TO @relay@;

GRANT INSERT, UPDATE, DELETE ON @schema@.leases, @schema@.parked TO @consumer@;
GRANT INSERT (name, feed, checkpoint), UPDATE (checkpoint, finished, halted, owner, epoch, updated_at), DELETE
    ON @schema@.subscriptions TO @consumer@;
GRANT EXECUTE ON FUNCTION @schema@.durable_v1, @schema@.settled_v1, @schema@.holds_v1 TO @consumer@;

GRANT EXECUTE ON FUNCTION @schema@.hard_delete_v1 TO @eraser@;

-- The rows that the relay and consumers may write. A consumer owns all subscriptions, or those in the name of its group:
-- behind the consumers' name and a dot, one name, or a prefix followed by *. An existing policy is left alone: making one
-- waits for every user of the table.
DO $do$
DECLARE
    _group   text;
    _pattern text;
    _mine    text;  -- a condition on a subscription's name
    _policy  record;
BEGIN
    FOR _group IN SELECT rolname FROM pg_roles
        WHERE rolname IN (@relay_name@, @consumer_name@) OR starts_with(rolname, @consumer_name@ || '.')
    LOOP
        _pattern := substr(_group, length(@consumer_name@) + 2);
        _mine := CASE WHEN right(_pattern, 1) = '*'
                      THEN format('starts_with(s.name, %L)', left(_pattern, -1)) ELSE format('s.name = %L', _pattern) END;
        IF starts_with(_group, @consumer_name@ || '.') THEN
            EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA @schema@ FROM %I', _group);
            EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM %I', _group);
            EXECUTE format('GRANT INSERT, UPDATE, DELETE ON @schema@.leases, @schema@.parked TO %I', _group);
            EXECUTE format('GRANT INSERT (name, feed, checkpoint), UPDATE (checkpoint, finished, halted, owner, epoch, updated_at),'
                           ' DELETE ON @schema@.subscriptions TO %I', _group);
            EXECUTE format('GRANT EXECUTE ON FUNCTION @schema@.durable_v1, @schema@.settled_v1, @schema@.holds_v1 TO %I', _group);
        END IF;
        FOR _policy IN
            SELECT '@schema@.leases'::regclass AS relation, $$NOT starts_with(name, 'subscription ')$$ AS condition
            WHERE _group = @relay_name@
            UNION ALL
            SELECT w.relation, w.condition FROM (VALUES
                ('@schema@.subscriptions'::regclass, 'true'),
                ('@schema@.parked'::regclass, 'true'),
                ('@schema@.leases'::regclass, $$name ~ '^subscription [0-9]{1,18}$'$$)) AS w (relation, condition)
            WHERE _group = @consumer_name@
            UNION ALL
            SELECT w.relation, w.condition FROM (VALUES
                ('@schema@.subscriptions'::regclass, replace(_mine, 's.name', 'name')),
                ('@schema@.parked'::regclass, format(
                    'EXISTS (SELECT FROM @schema@.subscriptions AS s WHERE s.subscription_id = parked.subscription_id AND %s)',
                    _mine)),
                ('@schema@.leases'::regclass, format(
                    'EXISTS (SELECT FROM @schema@.subscriptions AS s WHERE s.subscription_id ='
                    ' CASE WHEN leases.name ~ %L THEN substr(leases.name, 14)::bigint END AND %s)',
                    '^subscription [0-9]{1,18}$', _mine))) AS w (relation, condition)
            WHERE starts_with(_group, @consumer_name@ || '.')
        LOOP
            IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = _policy.relation AND polname = _group) THEN
                EXECUTE format('CREATE POLICY %I ON %s TO %I USING (%s)', _group, _policy.relation, _group, _policy.condition);
            END IF;
        END LOOP;
    END LOOP;
END $do$;

-- name: narrow
-- A group for logins that may own only some subscriptions. Its rights are granted with the others, by the store's owner.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = @group_name@) THEN
        CREATE ROLE @group@ NOLOGIN;
    END IF;
END $do$;
GRANT @reader@ TO @group@;

-- name: narrowed
-- A member of both groups would keep the rights of the wider one.
REVOKE @consumer@ FROM @login@;

-- name: login
-- Settings count for the role that logs in, never for the groups that it is a member of. These end a transaction that
-- nobody will end: its program waits for something else, or its host is gone.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = @login_name@) THEN
        CREATE ROLE @login@ LOGIN;
    END IF;
END $do$;
GRANT @group@ TO @login@;
ALTER ROLE @login@ IN DATABASE @database@ SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE @login@ IN DATABASE @database@ SET tcp_keepalives_idle = '30s';
ALTER ROLE @login@ IN DATABASE @database@ SET tcp_keepalives_interval = '10s';
ALTER ROLE @login@ IN DATABASE @database@ SET tcp_keepalives_count = 3;
ALTER ROLE @login@ IN DATABASE @database@ SET tcp_user_timeout = '60s';

-- name: login_relay
-- Its statements are ours, and short. The other roles' logins are applications', with statements of their own.
ALTER ROLE @login@ IN DATABASE @database@ SET statement_timeout = '60s';
ALTER ROLE @login@ IN DATABASE @database@ SET lock_timeout = '15s';
ALTER ROLE @login@ IN DATABASE @database@ SET search_path = pg_catalog, pg_temp;
