-- How often is each policy right, by kind of question?
SELECT
    p.policy,
    coalesce(e.question_kind, 'unknown') AS question_kind,
    avg(p.correct::INTEGER) AS accuracy,
    count(p.correct) AS n
FROM predictions AS p
JOIN examples AS e USING (example_id)
GROUP BY ALL
ORDER BY question_kind, policy;
