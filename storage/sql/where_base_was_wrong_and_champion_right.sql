-- On which pictures was the base policy wrong and the champion right, and where did each look?
WITH by_policy AS (
    SELECT policy, avg(correct::INTEGER) AS accuracy
    FROM predictions
    WHERE policy <> 'base'
    GROUP BY policy
),
champion AS (
    -- The recorded decision; before there is one, the trained policy that is most often right.
    SELECT coalesce(
        (
            SELECT summary ->> '$.champion'
            FROM artifacts
            WHERE kind = 'champion' AND is_current
            ORDER BY created_at DESC, work_key
            LIMIT 1
        ),
        (SELECT policy FROM by_policy ORDER BY accuracy DESC, policy LIMIT 1)
    ) AS policy
)
SELECT
    e.example_id,
    i.file_name,
    e.question,
    e.answer AS right_answer,
    b.answer AS base_answer,
    c.answer AS champion_answer,
    c.policy AS champion,
    b.lift AS base_lift,
    c.lift AS champion_lift,
    c.chance,
    b.map_id AS base_map_id,
    c.map_id AS champion_map_id
FROM predictions AS b
JOIN predictions AS c USING (example_id)
JOIN champion ON c.policy = champion.policy
JOIN examples AS e USING (example_id)
LEFT JOIN images AS i ON i.image_sha256 = e.image_sha256
WHERE b.policy = 'base' AND NOT b.correct AND c.correct
ORDER BY c.lift - b.lift DESC NULLS LAST, e.example_id;
