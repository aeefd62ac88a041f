-- Everything here is read from catalogues that anybody may read; what only some may see is null for others.

-- name: server
SELECT current_setting('server_version_num')::integer AS version, pg_is_in_recovery() AS replica,
       current_database() AS database, current_user::text AS login, current_setting('fsync') = 'on' AS fsync,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('default_transaction_isolation') AS isolation,
       pg_has_role(current_user, 'pg_read_all_stats', 'MEMBER') AS sees_all,
       to_regclass('@schema@.blocks') IS NOT NULL AND to_regclass('@schema@.schema_migrations') IS NOT NULL AS there

-- name: creators
-- Roles, other than the owner, that may create objects in a schema of this login's search path.
SELECT n.nspname::text AS schema, coalesce(r.rolname::text, 'PUBLIC') AS role
FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
WHERE a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner AND r.rolsuper IS NOT TRUE
  AND n.nspname = ANY (SELECT replace(btrim(part, ' "'), '$user', current_user) FROM pg_settings AS s,
                       unnest(string_to_array(s.reset_val, ',')) AS part WHERE s.name = 'search_path')
ORDER BY 1, 2

-- name: schema_version
SELECT coalesce(max(version), 0) AS version FROM @schema@.schema_migrations

-- name: sequence
-- `drawn` is null for those who may not look into the sequence, and 0 where it was restarted and nothing is drawn yet.
SELECT seqcache AS cache, seqincrement AS increment, seqcycle AS cycle,
       CASE WHEN has_sequence_privilege('@schema@.blocks', 'SELECT')
            THEN coalesce(pg_sequence_last_value(seqrelid), 0) END AS drawn
FROM pg_sequence WHERE seqrelid = '@schema@.blocks'::regclass::oid

-- name: used
-- The highest block that an event or a link stands in.
SELECT greatest((SELECT position FROM @schema@.events ORDER BY position DESC LIMIT 1),
                (SELECT feed_position FROM @schema@.links ORDER BY feed_position DESC LIMIT 1), 0) / 1024 AS block

-- name: store_rows
SELECT count(*) AS count, max(batch_bytes) AS batch_bytes FROM @schema@.store

-- name: relations
-- Tables and indexes of the schema, and whether an index can be used.
SELECT c.relname::text AS name, CASE WHEN c.relkind = 'i' THEN 'index' ELSE 'table' END AS kind,
       coalesce(i.indisvalid AND i.indisready, true) AS valid
FROM pg_class AS c LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
WHERE c.relnamespace = to_regnamespace('@schema@')::oid AND c.relkind IN ('r', 'i')

-- name: keys
SELECT c.relname::text AS table, CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END AS kind,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS n (number, ord)
             JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = n.number ORDER BY n.ord) AS columns
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
WHERE c.relnamespace = to_regnamespace('@schema@')::oid AND k.contype IN ('p', 'u')

-- name: functions
SELECT proname::text AS name FROM pg_proc WHERE pronamespace = to_regnamespace('@schema@')::oid

-- name: triggers
SELECT t.tgname::text AS name, t.tgenabled IN ('O', 'A') AS enabled
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = to_regnamespace('@schema@')::oid AND NOT t.tgisinternal

-- name: open_tables
-- Tables without row-level security: a login that may write to the table may write all rows.
SELECT relname::text AS name FROM pg_class
WHERE relnamespace = to_regnamespace('@schema@')::oid AND relkind = 'r' AND NOT relrowsecurity

-- name: roles
SELECT rolname::text AS name FROM pg_roles WHERE rolname = ANY ($1::text[])

-- name: rights
-- Whether role $1[i] has privilege $2[i] on table or function $4[i] (as $3[i] says) of the schema, on columns $5[i] where it
-- names some; missing objects do not count.
SELECT w.ord AS number,
       CASE WHEN w.columns <> '' THEN
                (SELECT bool_and(has_column_privilege(w.role, c.oid, each, w.privilege))
                 FROM unnest(string_to_array(w.columns, ', ')) AS each)
            WHEN w.kind = 'table' THEN has_table_privilege(w.role, c.oid, w.privilege)
            ELSE has_function_privilege(w.role, p.oid, w.privilege) END AS granted
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    WITH ORDINALITY AS w (role, privilege, kind, name, columns, ord)
LEFT JOIN pg_class AS c ON w.kind = 'table' AND c.relname = w.name AND c.relkind = 'r'
    AND c.relnamespace = to_regnamespace('@schema@')::oid
LEFT JOIN pg_proc AS p ON w.kind = 'function' AND p.proname = w.name AND p.pronamespace = to_regnamespace('@schema@')::oid
WHERE c.oid IS NOT NULL OR p.oid IS NOT NULL

-- name: schema_usage
SELECT role FROM unnest($1::text[]) AS role WHERE NOT has_schema_privilege(role, to_regnamespace('@schema@'), 'USAGE')

-- name: foreign_rights
-- Roles, other than the owner, that may write to a table, one of its columns or a sequence, or may call a function; and the
-- rights of everybody in the schema.
SELECT coalesce(r.rolname::text, 'PUBLIC') AS role, g.privilege, g.kind, g.name, g.columns
FROM (
    SELECT a.grantee, a.privilege_type AS privilege, CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind,
           c.relname::text AS name, '' AS columns
    FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
    WHERE c.relnamespace = to_regnamespace('@schema@')::oid AND c.relkind IN ('r', 'S') AND a.grantee <> c.relowner
      AND (a.grantee = 0::oid OR a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER'))
    UNION ALL
    SELECT a.grantee, a.privilege_type, 'table', c.relname::text, string_agg(quote_ident(t.attname), ', ' ORDER BY t.attnum)
    FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) AS a
    WHERE c.relnamespace = to_regnamespace('@schema@')::oid AND c.relkind = 'r' AND a.grantee <> c.relowner
      AND (a.grantee = 0::oid OR a.privilege_type IN ('INSERT', 'UPDATE'))
    GROUP BY a.grantee, a.privilege_type, c.relname
    UNION ALL
    SELECT a.grantee, a.privilege_type, 'function', p.proname::text, ''
    FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
    WHERE p.pronamespace = to_regnamespace('@schema@')::oid AND a.grantee <> p.proowner
) AS g LEFT JOIN pg_roles AS r ON r.oid = g.grantee
ORDER BY 3, 4, 1, 2

-- name: logins
-- Logins that are members of a group, and their settings in this database. $2: the prefix of the groups that may own only
-- some subscriptions.
SELECT m.rolname::text AS login, g.rolname::text AS group,
       coalesce((SELECT array_agg(split_part(c, '=', 1)) FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c
                 WHERE s.setrole = m.oid
                   AND s.setdatabase IN (0::oid, (SELECT oid FROM pg_database WHERE datname = current_database()))),
                '{}'::text[]) AS settings
FROM pg_auth_members AS a JOIN pg_roles AS g ON g.oid = a.roleid JOIN pg_roles AS m ON m.oid = a.member
WHERE (g.rolname = ANY ($1::text[]) OR starts_with(g.rolname::text, $2::text)) AND m.rolcanlogin ORDER BY 1, 2

-- name: transactions
-- Open ones of this database. Without pg_read_all_stats, others' are not among them, unless they are prepared.
SELECT a.pid, a.usename::text AS login, coalesce(a.application_name, '') AS application, a.state, NULL AS prepared,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
  AND a.xact_start IS NOT NULL
UNION ALL
SELECT NULL, p.owner::text, '', 'prepared', p.gid, extract(epoch FROM clock_timestamp() - p.prepared)::float8
FROM pg_prepared_xacts AS p WHERE p.database = current_database()

-- name: waits
-- Sessions of this store that wait for a lock, with its holders (0: a prepared transaction), or for a synchronous standby,
-- which only members of pg_read_all_stats see of other logins. A commit that waits for a standby still holds its locks.
-- `trkl` is the class of the locks that making and changing a schema takes.
WITH ours AS (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace('@schema@')::oid),
at_work AS (
    SELECT DISTINCT l.pid FROM pg_locks AS l
    WHERE l.pid <> pg_backend_pid() AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.relation IN (SELECT oid FROM ours)
           OR l.locktype = 'advisory' AND (l.classid IN (SELECT oid FROM ours) OR l.classid = 1953655660::oid))
)
SELECT a.pid, w.pid IS NULL AS standby,
       coalesce('table ' || w.relation::regclass::text, CASE WHEN w.locktype = 'advisory' THEN 'names of streams' END,
                'a row') AS what,
       coalesce(extract(epoch FROM clock_timestamp() - coalesce(w.waitstart, a.query_start)), 0)::float8 AS seconds,
       CASE WHEN w.pid IS NULL THEN '{}'::integer[] ELSE pg_blocking_pids(a.pid) END AS blockers
FROM at_work JOIN pg_stat_activity AS a USING (pid) LEFT JOIN pg_locks AS w ON w.pid = a.pid AND NOT w.granted
WHERE w.pid IS NOT NULL OR a.wait_event = 'SyncRep'

-- name: sessions
SELECT a.pid, coalesce(a.usename::text, '') AS login, coalesce(a.application_name, '') AS application,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
FROM pg_stat_activity AS a WHERE a.pid = ANY ($1::integer[])

-- name: connections
-- Connections of the whole server, and of this database, which may have its own limit. Some are reserved for superusers.
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           - coalesce(current_setting('reserved_connections', true)::integer, 0) AS most,
       count(*) AS used, d.datconnlimit AS most_here, count(*) FILTER (WHERE a.datid = d.oid) AS used_here
FROM pg_stat_activity AS a, pg_database AS d
WHERE a.backend_type = 'client backend' AND d.datname = current_database() GROUP BY d.datconnlimit

-- name: connected_by
SELECT coalesce(nullif(application_name, ''), 'no application name') AS application, coalesce(usename::text, '') AS login,
       count(*) AS count
FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 3

-- name: held_since
-- How long what was committed above the safe position $1 has waited: so long, at least, an open transaction has held it
-- back, whose age only some may see.
SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 AS seconds FROM @schema@.events
WHERE position > $1 ORDER BY position LIMIT 1

-- name: leases
-- left: seconds until it runs out; null where it was released.
SELECT l.name, l.epoch, extract(epoch FROM l.length)::float8 AS length, s.name AS subscription,
       CASE WHEN l.until > '-infinity' THEN extract(epoch FROM l.until - clock_timestamp())::float8 END AS left
FROM @schema@.leases AS l LEFT JOIN @schema@.subscriptions AS s ON l.name = 'subscription ' || s.subscription_id::text
