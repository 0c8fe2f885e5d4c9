-- the number of each policy's answers without a scored map, by reason; what was not measured is no answer
SELECT
    policy,
    unscorable_reason,
    count(*) AS n
FROM predictions
WHERE unscorable_reason IS NOT NULL AND correct IS NOT NULL
GROUP BY policy, unscorable_reason
ORDER BY policy, unscorable_reason
