-- Who worked with the data of this tenant, and when?
SELECT caller, event_name, outcome, count(*) AS calls, min(time) AS first, max(time) AS last
FROM calls
WHERE element_at(context, 'tenant') = :tenant
   OR element_at(source_context, 'tenant') = :tenant
   OR element_at(destination_context, 'tenant') = :tenant
GROUP BY caller, event_name, outcome
ORDER BY caller, event_name, outcome;
