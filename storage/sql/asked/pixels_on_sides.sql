-- How many different pixels lie on some sides, how many of them on two, and which of those is first?
WITH pixels AS (
    SELECT DISTINCT image_sha256, coalesce(pixels_sha256, image_sha256) AS own FROM images
),
placed AS (
    SELECT DISTINCT image_sha256, split FROM splits WHERE split IN (SELECT unnest(?))
),
counted AS (
    SELECT own, min(split) < max(split) AS torn
    FROM placed JOIN pixels USING (image_sha256)
    GROUP BY own
)
SELECT count(*), count(*) FILTER (torn), min(own) FILTER (torn) FROM counted
