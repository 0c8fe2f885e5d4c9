-- For which answers is there no scored map, and why?
SELECT
    policy,
    unscorable_reason,
    count(*) AS n,
    count(*) / sum(count(*)) OVER (PARTITION BY policy) AS share_of_unscorable
FROM predictions
WHERE unscorable_reason IS NOT NULL
GROUP BY policy, unscorable_reason
ORDER BY policy, n DESC, unscorable_reason;
