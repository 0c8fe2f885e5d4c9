-- For which answers is there no scored map, and why?
SELECT
    policy,
    unscorable_reason,
    n,
    n / sum(n) OVER (PARTITION BY policy) AS share_of_unscorable
FROM unscorable_by_policy
ORDER BY policy, n DESC, unscorable_reason;
