-- of each policy's right answers at a lift of 0 or less: their number, and the 100 of the lowest lift
WITH found AS (
    SELECT policy, example_id, answer, mass, chance, lift, map_id
    FROM predictions
    WHERE correct AND lift <= 0
),
counted AS (
    SELECT policy, count(*) AS n_of_policy
    FROM found
    GROUP BY policy
),
lowest AS (
    -- A maximum of n keeps n rows per policy in memory and sorts no more; ties go by example_id.
    SELECT unnest(
        min_by(
            {policy: policy, example_id: example_id, answer: answer, mass: mass, chance: chance, lift: lift,
             map_id: map_id},
            {lift: lift, example_id: example_id},
            100
        ),
        recursive := true
    )
    FROM found
    GROUP BY policy
)
SELECT
    l.policy,
    c.n_of_policy,
    l.example_id,
    e.question,
    l.answer,
    l.mass,
    l.chance,
    l.lift,
    l.map_id
FROM lowest AS l
JOIN counted AS c USING (policy)
JOIN examples AS e USING (example_id)
ORDER BY l.lift, l.policy, l.example_id
