-- By how much do the policies differ, each difference with its interval and its n?
SELECT
    metric,
    subset,
    policy,
    versus,
    value,
    ci_low,
    ci_high,
    ci_low > 0 OR ci_high < 0 AS interval_excludes_zero,
    n
FROM evaluations
WHERE versus IS NOT NULL
ORDER BY metric, subset, policy, versus;
