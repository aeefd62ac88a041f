-- Who may do what with a store: group roles, in which nobody logs in, and logins that are members of them.
--
-- Nobody is granted INSERT, UPDATE or DELETE on streams, events or links. The functions of the SQL interface are the
-- only way in: they belong to the store's owner, and do what they do with his rights.
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
    @schema@.version_above_v1, @schema@.ahead_v1 TO @reader@;

GRANT EXECUTE ON FUNCTION @schema@.append_v1, @schema@.append_one_v1, @schema@.append_many_v1, @schema@.link_v1, @schema@.delete_v1 TO @writer@;
GRANT INSERT, UPDATE, DELETE ON @schema@.snapshots TO @writer@;

GRANT EXECUTE ON FUNCTION @schema@.durable_v1 TO @relay@, @consumer@;
GRANT INSERT, UPDATE ON @schema@.relays, @schema@.leases, @schema@.given_up TO @relay@;
GRANT INSERT, UPDATE, DELETE ON @schema@.standbys TO @relay@;

GRANT INSERT, UPDATE, DELETE ON @schema@.subscriptions, @schema@.leases, @schema@.parked TO @consumer@;
GRANT EXECUTE ON FUNCTION @schema@.settled_v1, @schema@.holds_v1 TO @consumer@;

GRANT EXECUTE ON FUNCTION @schema@.hard_delete_v1 TO @eraser@;

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
