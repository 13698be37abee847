-- Who unwrapped this data key, and who tried?
SELECT time, caller, session_name, source_ip, event_name, outcome, error_code, key, log, record
FROM calls
WHERE array_position(fingerprints_in, :fingerprint) > 0
ORDER BY time, log, record;
