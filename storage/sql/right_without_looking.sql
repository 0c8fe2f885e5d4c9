-- Which right answers came from a policy that looked at the evidence no more than chance?
SELECT
    p.policy,
    p.example_id,
    e.question,
    p.answer,
    p.mass,
    p.chance,
    p.lift,
    p.map_id
FROM predictions AS p
JOIN examples AS e USING (example_id)
WHERE p.correct AND p.lift <= 0
ORDER BY p.lift, p.policy, p.example_id;
