-- Trino, with the Iceberg connector as the catalogue CATALOG.
--
-- Published with --catalog (REST, Glue): the table is there already; leave the next statements out. Else Trino is told where it
-- lies (iceberg.register-table-procedure.enabled=true), and again after each publishing, since it keeps what it found:
--
--     CALL CATALOG.system.unregister_table(schema_name => 'NAMESPACE', table_name => 'NAME');
CREATE SCHEMA IF NOT EXISTS CATALOG.NAMESPACE;
CALL CATALOG.system.register_table(
    schema_name => 'NAMESPACE', table_name => 'NAME', table_location => 's3://BUCKET/PREFIX/events');

-- The views that `keytrail sql` has too.
CREATE OR REPLACE VIEW CATALOG.NAMESPACE.events AS
SELECT *,
       CAST(time AS date) AS day,
       element_at(keys, 1) AS key,
       CASE WHEN caller LIKE '%:assumed-role/%' THEN split_part(caller, '/', 2) END AS role,
       CASE WHEN caller LIKE '%:assumed-role/%' THEN split_part(caller, '/', 3) END AS session_name,
       CASE WHEN phase = 'intent' THEN 'intent'
            WHEN effect = 'made' THEN 'ok'
            WHEN effect = 'none' THEN 'failed'
            WHEN phase = 'unknown' OR effect = 'unknown' THEN 'unknown'
            WHEN error_code IS NULL THEN 'ok'
            WHEN error_code = 'DryRunOperationException' THEN 'dry run'
            ELSE 'failed' END AS outcome,
       'keytrail' AS origin
FROM CATALOG.NAMESPACE.NAME;

CREATE OR REPLACE VIEW CATALOG.NAMESPACE.calls AS
SELECT * FROM CATALOG.NAMESPACE.events WHERE phase <> 'intent';
