-- Who was refused often within an hour?
SELECT caller, date_trunc('hour', time) AS hour, count(*) AS refusals, count(DISTINCT source_ip) AS addresses
FROM calls
WHERE time >= :since AND time < :until AND outcome = 'failed'
GROUP BY caller, date_trunc('hour', time)
HAVING count(*) >= :refusals
ORDER BY hour, caller;
