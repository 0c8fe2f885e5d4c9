-- How much more than chance does each policy look at the evidence, and on how many answers could that be said?
SELECT
    policy,
    mass,
    chance,
    lift,
    pointing,
    pointing_chance,
    n_scored,
    n_unscorable
FROM scores_by_policy
ORDER BY lift DESC NULLS LAST, policy;
