-- the scores of each policy's answers beside their chance, with the number of answers that were scored
SELECT
    policy,
    avg(mass) AS mass,
    avg(chance) AS chance,
    avg(lift) AS lift,
    avg(pointing_hit::INTEGER) AS pointing,
    avg(pointing_chance) FILTER (pointing_hit IS NOT NULL) AS pointing_chance,
    count(lift) AS n_scored,
    count(*) - count(lift) AS n_unscorable
FROM predictions
GROUP BY policy
ORDER BY policy
