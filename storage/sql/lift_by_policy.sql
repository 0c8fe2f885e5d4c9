-- How much more than chance does each policy look at the evidence, and on how many answers could that be said?
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
ORDER BY lift DESC NULLS LAST, policy;
