-- Athena (engine version 3), which takes one statement at a time.
--
-- Published with --catalog-type glue: the table NAMESPACE.NAME is there already; only the views are missing. This is the way to
-- prefer: what Athena reads is then one state of the table, with the statistics of its files.
CREATE OR REPLACE VIEW NAMESPACE.events AS
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
FROM NAMESPACE.NAME;

CREATE OR REPLACE VIEW NAMESPACE.calls AS
SELECT * FROM NAMESPACE.events WHERE phase <> 'intent';

-- Without Iceberg: the same files as a table of Hive's, found by their folders. A record can be in two of them, as long as what
-- was merged is kept, so the view takes each once. Begin the range of days where the log does.
CREATE EXTERNAL TABLE NAMESPACE.NAME_files (
    `time` timestamp,
    `event_name` string,
    `phase` string,
    `caller` string,
    `user_name` string,
    `identity_type` string,
    `identity_proof` string,
    `access_key_id` string,
    `account_id` string,
    `recipient_account_id` string,
    `region` string,
    `source_ip` string,
    `peer` string,
    `user_agent` string,
    `error_code` string,
    `wire_error` string,
    `error_message` string,
    `keys` array<string>,
    `key_name` string,
    `alias_name` string,
    `key_spec` string,
    `key_material_id` string,
    `context` map<string,string>,
    `source_context` map<string,string>,
    `destination_context` map<string,string>,
    `private_context` map<string,string>,
    `fingerprints_in` array<string>,
    `fingerprints_out` array<string>,
    `policy` string,
    `grant_id` string,
    `grantee` string,
    `grant_tokens` array<string>,
    `deletion_date` timestamp,
    `request_id` string,
    `event_id` string,
    `intent_id` string,
    `event_source` string,
    `event_type` string,
    `read_only` boolean,
    `effect` string,
    `latency_us` bigint,
    `backend` string,
    `topology` string,
    `upstream_host` string,
    `upstream_status` int,
    `denied_policy` string,
    `denied_statement` string,
    `allowed_by` array<string>,
    `log` string,
    `record` bigint,
    `start` bigint,
    `size` bigint
)
PARTITIONED BY (`day` date)
STORED AS PARQUET
LOCATION 's3://BUCKET/PREFIX/events/data/'
TBLPROPERTIES (
    'projection.enabled' = 'true',
    'projection.day.type' = 'date',
    'projection.day.format' = 'yyyy-MM-dd',
    'projection.day.range' = '2025-01-01,NOW+1DAYS',
    'storage.location.template' = 's3://BUCKET/PREFIX/events/data/day=${day}/'
);

CREATE OR REPLACE VIEW NAMESPACE.events_of_files AS
SELECT *,
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
FROM (SELECT *, row_number() OVER (PARTITION BY day, log, record) AS copy FROM NAMESPACE.NAME_files)
WHERE copy = 1;
