-- How many pictures lie on each side first, but for some of them?
WITH placed AS (
    SELECT min(split) AS side FROM splits ANTI JOIN without USING (image_sha256) GROUP BY image_sha256
)
SELECT side, count(*) FROM placed GROUP BY side ORDER BY side
