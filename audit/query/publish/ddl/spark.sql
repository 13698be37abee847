-- Spark 3.5 or newer, with Iceberg. The times are UTC, without a zone:
--
--     spark.sql.session.timeZone = UTC,  spark.sql.timestampType = TIMESTAMP_NTZ
--
-- Published with --catalog (REST, Glue), in the catalogue CATALOG:
--
--     CREATE OR REPLACE TEMPORARY VIEW published AS SELECT * FROM CATALOG.NAMESPACE.NAME;
--
-- Else by its place, in Python; it reads what is published when it is run:
--
--     spark.read.format("iceberg").load("s3://BUCKET/PREFIX/events").createOrReplaceTempView("published")

-- The views that `keytrail sql` has too.
CREATE OR REPLACE TEMPORARY VIEW events AS
SELECT *,
       CAST(time AS date) AS day,
       try_element_at(keys, 1) AS key,
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

CREATE OR REPLACE TEMPORARY VIEW calls AS
SELECT * FROM events WHERE phase <> 'intent';
