-- What did each caller do in a month?
SELECT caller, event_name, outcome, count(*) AS calls
FROM calls
WHERE time >= :since AND time < :until
GROUP BY caller, event_name, outcome
ORDER BY calls DESC, caller, event_name, outcome;
