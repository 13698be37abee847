-- Who used a key for the first time since a day?
SELECT key, caller, min(time) AS first, count(*) AS calls
FROM calls
WHERE outcome = 'ok' AND key IS NOT NULL
GROUP BY key, caller
HAVING min(time) >= :since
ORDER BY first, key, caller;
