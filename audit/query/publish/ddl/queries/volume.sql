-- Does a caller decrypt more than on the seven days before?
SELECT day, caller, decrypts,
       avg(decrypts) OVER (PARTITION BY caller ORDER BY day ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING) AS before
FROM (SELECT day, caller, count(*) AS decrypts FROM calls WHERE event_name = 'Decrypt' GROUP BY day, caller) AS days
ORDER BY day, caller;
