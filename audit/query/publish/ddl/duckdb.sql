-- DuckDB 1.5. Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain), which needs the extension aws.
INSTALL httpfs;
INSTALL avro;
INSTALL iceberg;
LOAD httpfs;
LOAD avro;
LOAD iceberg;

-- Published with --catalog: ATTACH the catalogue, and read NAMESPACE.NAME there instead.
CREATE OR REPLACE VIEW published AS SELECT * FROM iceberg_scan('s3://BUCKET/PREFIX/events');

-- DuckDB's own gives a list; with this, the questions read as they do elsewhere.
CREATE OR REPLACE MACRO element_at(pairs, wanted) AS pairs[wanted];

-- The views that `keytrail sql` has too.
CREATE OR REPLACE VIEW events AS
SELECT *,
       CAST(time AS date) AS day,
       keys[1] AS key,
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
FROM published;

CREATE OR REPLACE VIEW calls AS
SELECT * FROM events WHERE phase <> 'intent';
