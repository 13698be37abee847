-- Who presented a data key under a context that is not its own?
SELECT time, caller, source_ip, key, element_at(context, 'tenant') AS tenant, log, record
FROM calls
WHERE error_code = 'InvalidCiphertextException'
ORDER BY time, log, record;
