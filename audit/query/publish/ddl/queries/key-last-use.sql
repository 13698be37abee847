-- When was each key used last, and by how many? Ask before a key is deleted.
SELECT key, max(time) AS last, count(*) AS calls, count(DISTINCT caller) AS callers
FROM calls
WHERE outcome = 'ok' AND key IS NOT NULL
GROUP BY key
ORDER BY last, key;
