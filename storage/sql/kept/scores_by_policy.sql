-- the scores of each policy's answers beside their chance, with how many were scored, unscorable and not measured
SELECT
    policy,
    avg(mass) AS mass,
    avg(chance) AS chance,
    avg(lift) AS lift,
    avg(pointing_hit::INTEGER) AS pointing,
    avg(pointing_chance) FILTER (pointing_hit IS NOT NULL) AS pointing_chance,
    count(lift) AS n_scored,
    count(correct) - count(lift) AS n_unscorable,
    count(*) - count(correct) AS n_not_measured
FROM predictions
GROUP BY policy
ORDER BY policy
