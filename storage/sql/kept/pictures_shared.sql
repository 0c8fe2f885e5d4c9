-- the pairs of sources that share pictures by their upright pixels, and the examples of each
WITH used AS (
    SELECT source, image_sha256, count(*) AS n_examples
    FROM examples
    GROUP BY source, image_sha256
),
by_pixels AS (
    SELECT u.source, i.pixels_sha256, sum(u.n_examples) AS n_examples
    FROM used AS u
    JOIN images AS i USING (image_sha256)
    GROUP BY u.source, i.pixels_sha256
)
SELECT
    a.source,
    b.source AS also_in,
    count(*) AS n_pictures,
    sum(a.n_examples)::BIGINT AS n_examples,
    sum(b.n_examples)::BIGINT AS n_examples_there,
    min(a.pixels_sha256) AS a_picture
FROM by_pixels AS a
JOIN by_pixels AS b ON a.pixels_sha256 = b.pixels_sha256 AND a.source < b.source
GROUP BY a.source, b.source
ORDER BY n_pictures DESC, a.source, also_in
