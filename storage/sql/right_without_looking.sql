-- Which right answers came from a policy that looked at the evidence no more than chance (100 of each, and how many)?
SELECT
    policy,
    n_of_policy,
    example_id,
    question,
    answer,
    mass,
    chance,
    lift,
    map_id
FROM least_looked_at
ORDER BY lift, policy, example_id;
