-- How many draws (groups of pictures) of each stratum lie on each side, but for some pictures?
WITH drawn AS (
    SELECT DISTINCT source, answer_type, split, coalesce(group_sha256, image_sha256) AS draw
    FROM (SELECT * FROM splits ANTI JOIN without USING (image_sha256)) AS splits
    JOIN (SELECT example_id, source, answer_type FROM examples) AS examples USING (example_id)
    WHERE split IN (SELECT unnest(?))
)
SELECT source, answer_type, split, count(*) FROM drawn GROUP BY ALL ORDER BY ALL
