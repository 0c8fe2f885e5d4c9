-- Does a policy trust the words over the pixels: how right is it where they disagree, and where they agree?
SELECT
    p.policy,
    avg(p.correct::INTEGER) FILTER (e.condition = 'conflict') AS accuracy_conflict,
    avg(p.correct::INTEGER) FILTER (e.condition = 'control') AS accuracy_control,
    accuracy_control - accuracy_conflict AS gap,
    count(p.correct) FILTER (e.condition = 'conflict') AS n_conflict,
    count(p.correct) FILTER (e.condition = 'control') AS n_control
FROM predictions AS p
JOIN examples AS e USING (example_id)
WHERE e.slice = 'prior_conflict'
GROUP BY p.policy
ORDER BY accuracy_conflict DESC NULLS LAST, p.policy;
